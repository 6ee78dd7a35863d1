"""Rules beside a real implementation of CEL: where both languages have it, both say the same.

Left out, as rules mean something else there on purpose: null and what is missing (CEL fails),
division by zero (CEL gives infinity), integers (CEL's are 64 bits wide and divide without
fractions). So every number is written with a point, and only sizes are integers.
"""

from dataclasses import dataclass
from typing import Any, Final

import celpy
from celpy import celtypes
from celpy.adapter import json_to_cel
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from modelux._native import check_rule, evaluate_rule

EXAMPLES: Final = 20 * settings().max_examples
DEPTH: Final = 4

NUMBERS: Final = ("0.0", "1.0", "2.5", "1000.0", "0.1", "3e2", "7.25e-3")
LETTERS: Final = "ab zZ09'\"\\\n\t/é€😀"
TEXTS: Final = st.text(alphabet=LETTERS, max_size=4)
COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=")
METHODS: Final = ("startsWith", "endsWith", "contains")

TEXT_VARS: Final = ("tags.tier", "tags['a-b']", "end_user", "request.model", "response.text")
NUMBER_VARS: Final = (
    "request.input_tokens",
    "request.messages",
    "budget.used_pct",
    "cost['m-1'].est_usd",
    "latency['m-1'].ttft_ms",
)
BOOL_VARS: Final = ("request.stream", "response.json_valid")

# How close an expression binds, from the loosest.
CHOICE, OR, AND, RELATION, SUM, PRODUCT, UNARY, PRIMARY = range(8)


@dataclass(frozen=True, slots=True)
class Text:
    """An expression as it is written, and how close it binds."""

    text: str
    level: int

    def at(self, level: int) -> str:
        """Return it as an operand, in parentheses where it needs them."""
        return self.text if self.level >= level else f"({self.text})"


def quoted(draw: DrawFn, text: str) -> str:
    """Return `text` as a literal, in either quote and in one of its spellings each."""
    quote = draw(st.sampled_from("'\""))
    parts = []
    for letter in text:
        code = ord(letter)
        spellings = [f"\\U{code:08x}"]
        if letter not in {quote, "\\", "\n"}:
            spellings += [letter, letter]
        if letter in "'\"\\":
            spellings.append(f"\\{letter}")
        if letter in "\n\t":
            spellings.append({"\n": "\\n", "\t": "\\t"}[letter])
        if code < 0x10000:
            spellings.append(f"\\u{code:04x}")
        if code < 0x80:
            spellings += [f"\\x{code:02X}", f"\\{code:03o}"]
        parts.append(draw(st.sampled_from(spellings)))
    return f"{quote}{''.join(parts)}{quote}"


def choice(draw: DrawFn, depth: int, kind: str) -> Text:
    """Draw a choice between two expressions of a kind."""
    condition = expression(draw, depth, "condition")
    yes, no = expression(draw, depth, kind), expression(draw, depth, kind)
    return Text(f"{condition.at(OR)} ? {yes.at(OR)} : {no.at(CHOICE)}", CHOICE)


def binary(draw: DrawFn, depth: int, kind: str, sign: str, level: int) -> Text:
    """Draw an operator between two expressions of a kind."""
    left, right = expression(draw, depth, kind), expression(draw, depth, kind)
    return Text(f"{left.at(level)} {sign} {right.at(level + 1)}", level)


def condition(draw: DrawFn, depth: int) -> Text:
    """Draw what is true or false, and not a variable or a literal."""
    form = draw(st.integers(0, 10))
    match form:
        case 0 | 1:
            return binary(draw, depth, "condition", "&&", AND)
        case 2 | 3:
            return binary(draw, depth, "condition", "||", OR)
        case 4:
            return Text(f"!{expression(draw, depth, 'condition').at(UNARY)}", UNARY)
        case 5:
            return choice(draw, depth, "condition")
        case 6:
            # A list and what is looked for in it are of one type.
            kind = draw(st.sampled_from(("number", "text")))
            subject = expression(draw, depth, kind)
            count = draw(st.integers(1, 4))
            elements = [expression(draw, 0, kind).text for _ in range(count)]
            return Text(f"{subject.at(RELATION)} in [{', '.join(elements)}]", RELATION)
        case 7:
            subject = expression(draw, depth, "text")
            method = draw(st.sampled_from(METHODS))
            part = expression(draw, 0, "text").text
            return Text(f"{subject.at(PRIMARY)}.{method}({part})", PRIMARY)
        case 8:
            sign, size = draw(st.sampled_from(COMPARISONS)), draw(st.integers(0, 4))
            return Text(f"size({expression(draw, depth, 'text').text}) {sign} {size}", RELATION)
        case 9:
            key = draw(st.sampled_from(("tier", "other")))
            return Text(f"has(tags.{key})", PRIMARY)
        case _:
            kind = draw(st.sampled_from(("number", "number", "text")))
            return binary(draw, depth, kind, draw(st.sampled_from(COMPARISONS)), RELATION)


def number(draw: DrawFn, depth: int) -> Text:
    """Draw a calculation."""
    match draw(st.integers(0, 5)):
        case 0:
            return Text(f"-{expression(draw, depth, 'number').at(PRIMARY)}", UNARY)
        case 1:
            return choice(draw, depth, "number")
        case 2:
            left = expression(draw, depth, "number").at(PRODUCT)
            divisor = draw(st.sampled_from([word for word in NUMBERS if float(word)]))
            return Text(f"{left} / {divisor}", PRODUCT)
        case 3:
            return binary(draw, depth, "number", "*", PRODUCT)
        case _:
            return binary(draw, depth, "number", draw(st.sampled_from("+-")), SUM)


def expression(draw: DrawFn, depth: int, kind: str) -> Text:
    """Draw an expression of a kind that both languages have."""
    is_leaf = depth == 0 or draw(st.integers(0, 2)) == 0
    if is_leaf or kind == "text":
        if kind == "text" and depth and draw(st.integers(0, 4)) == 0:
            return choice(draw, depth - 1, kind)
        names = {"condition": BOOL_VARS, "number": NUMBER_VARS, "text": TEXT_VARS}[kind]
        if draw(st.integers(0, 2)):
            return Text(draw(st.sampled_from(names)), PRIMARY)
        match kind:
            case "condition":
                return Text(draw(st.sampled_from(("true", "false"))), PRIMARY)
            case "number":
                return Text(draw(st.sampled_from(NUMBERS)), PRIMARY)
            case _:
                return Text(quoted(draw, draw(TEXTS)), PRIMARY)
    make = condition if kind == "condition" else number
    return make(draw, depth - 1)


@st.composite
def rules(draw: DrawFn) -> str:
    """Sound rules that mean the same in CEL."""
    return condition(draw, DEPTH).text


VALUES: Final = st.fixed_dictionaries(
    dict.fromkeys(TEXT_VARS, st.text(alphabet=LETTERS, max_size=6) | st.just("ab"))
    | dict.fromkeys(NUMBER_VARS, st.sampled_from([0.0, 1.0, 2.5, 0.1, 1e3, 300.0]))
    | dict.fromkeys(BOOL_VARS, st.booleans())
)

ENVIRONMENT: Final = celpy.Environment()


def of_cel(program: celpy.Runner, values: dict[str, object]) -> bool:
    """What CEL makes of the same rule."""
    tables: dict[str, Any] = {}
    for name, value in values.items():
        path = name.replace("['", ".").replace("']", "").split(".")
        table = tables
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value
    # A key as `m-1` is no CEL name, yet it stands in brackets only: no two names clash here.
    activation = {name: json_to_cel(value) for name, value in tables.items()}
    result = program.evaluate(activation)
    assert isinstance(result, celtypes.BoolType), result
    return bool(result)


def in_words(text: str) -> str:
    """The same rule with `and`, `or` and `not`, outside of its texts."""
    out, quote, at = [], "", 0
    while at < len(text):
        letter = text[at]
        width = 1
        if quote:
            width = 2 if letter == "\\" else 1
            word = text[at : at + width]
            quote = "" if letter == quote else quote
        elif text.startswith(("&&", "||"), at):
            width, word = 2, "and" if letter == "&" else "or"
        elif letter == "!" and not text.startswith("!=", at):
            word = "not "
        else:
            word, quote = letter, letter if letter in "'\"" else ""
        out.append(word)
        at += width
    return "".join(out)


@settings(max_examples=EXAMPLES)
@given(text=rules(), values=st.lists(VALUES, min_size=3, max_size=3))
def test_a_rule_says_what_cel_says(text: str, values: list[dict[str, object]]) -> None:
    fault = check_rule(text, answers=True).fault
    if fault is not None:
        assert "more than" in fault[2], (fault, text)
        return
    program = ENVIRONMENT.program(ENVIRONMENT.compile(text))
    for case in values:
        says = evaluate_rule(text, case, answers=True)
        assert says is of_cel(program, case)
        assert says is evaluate_rule(in_words(text), case, answers=True)
        event(f"{says}")


def test_the_words_of_operators_replace_them_outside_of_texts_only() -> None:
    text = "!(a != 'x && !\\' || ' && \"!'\" == b) || !c"
    assert in_words(text) == "not (a != 'x && !\\' || ' and \"!'\" == b) or not c"
