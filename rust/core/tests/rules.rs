//! The rule language against its vectors, against a plain interpreter, and against hostility.

#![expect(clippy::unwrap_used, reason = "a test that unwraps names the line that failed")]

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::collections::HashMap;

use modelux_core::rules::{
    DEPTH_MAX, FUNCTIONS, NODES_MAX, Place, Rule, TEXT_BYTES_MAX, VARIABLES, Value, Var, Vars,
    Verdict, Work, variable,
};
use proptest::prelude::*;
use serde_json::Value as Json;

/// Values by variable, as the vectors write them.
struct Given(HashMap<Var, Json>);

impl Given {
    fn of(values: &Json) -> Self {
        let values = values.as_object().unwrap().iter();
        Self(values.map(|(name, value)| (variable(name).unwrap().0, value.clone())).collect())
    }
}

impl Vars for Given {
    fn read(&self, _index: usize, var: &Var) -> Value<'_> {
        match self.0.get(var) {
            None | Some(Json::Null) => Value::Null,
            Some(Json::Bool(value)) => Value::Bool(*value),
            Some(Json::Number(number)) => Value::Number(number.as_f64().unwrap()),
            Some(Json::String(text)) => Value::Text(text),
            Some(span) => Value::Span {
                least: span[0].as_f64().unwrap(),
                most: span[1].as_f64().unwrap(),
            },
        }
    }
}

fn vectors() -> Json {
    serde_json::from_str(include_str!("../../../tests/vectors/rules.json")).unwrap()
}

fn place_of(line: &Json) -> Place {
    if line["answers"] == Json::Bool(true) { Place::Answer } else { Place::Request }
}

fn compiled(text: &str) -> Rule {
    Rule::compile(text, Place::Request).unwrap_or_else(|fault| panic!("{fault}\n{text}"))
}

fn says(text: &str) -> Verdict {
    compiled(text).eval(&Given(HashMap::new()))
}

#[test]
fn every_vector_says_what_it_should() {
    let vectors = vectors();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() > 200);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let rule =
            Rule::compile(text, place_of(case)).unwrap_or_else(|f| panic!("{text}: {f}"));
        let verdict = match rule.eval(&Given::of(&case["values"])) {
            Verdict::True => Json::Bool(true),
            Verdict::False => Json::Bool(false),
            Verdict::Null => Json::Null,
            Verdict::Open => Json::from("open"),
        };
        assert_eq!(verdict, case["says"], "{case}");
    }
}

#[test]
fn every_fault_is_found_where_it_is() {
    let vectors = vectors();
    let faults = vectors["faults"].as_array().unwrap();
    assert!(faults.len() > 150);
    for line in faults {
        let text = line["text"].as_str().unwrap();
        let fault = Rule::compile(text, place_of(line)).expect_err(text);
        assert_eq!(Json::from(fault.line), line["line"], "{text}: {fault}");
        assert_eq!(Json::from(fault.column), line["column"], "{text}: {fault}");
        assert_eq!(Json::from(fault.message.as_str()), line["message"], "{text}");
    }
}

#[test]
fn every_variable_and_function_has_a_vector() {
    let vectors = vectors();
    let texts: Vec<&str> = vectors["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["text"].as_str().unwrap())
        .collect();
    for row in &FUNCTIONS {
        let call = row.form.split_once('(').unwrap().0.trim_start_matches('x');
        assert!(texts.iter().any(|text| text.contains(&format!("{call}("))), "{}", row.form);
    }
    let mut read: Vec<String> = Vec::new();
    for case in vectors["cases"].as_array().unwrap() {
        let rule = Rule::compile(case["text"].as_str().unwrap(), place_of(case)).unwrap();
        read.extend(rule.vars().iter().map(Var::to_string));
    }
    for row in &VARIABLES {
        let name = row.name();
        let (start, end) = name.split_once("NAME").unwrap_or((&name, ""));
        let start = start.trim_end_matches("KEY");
        assert!(read.iter().any(|n| n.starts_with(start) && n.ends_with(end)), "{name}");
    }
}

/// Asked only for what decides.
struct Unasked;

impl Vars for Unasked {
    fn read(&self, _index: usize, var: &Var) -> Value<'_> {
        panic!("{var} was read")
    }
}

#[test]
fn what_cannot_decide_is_not_read() {
    for (text, verdict) in [
        ("false && tags.x == 'a'", Verdict::False),
        ("true || tags.x == 'a'", Verdict::True),
        ("true ? true : tags.x == 'a'", Verdict::True),
        ("false ? tags.x == 'a' : true", Verdict::True),
        ("null ? tags.x == 'a' : true", Verdict::True),
        ("false && tags.a == 'a' && tags.b == 'b' && has(tags.c)", Verdict::False),
        ("true || has(tags.a) || has(tags.b)", Verdict::True),
        ("(false && has(tags.a)) ? has(tags.b) : !(true || has(tags.c))", Verdict::False),
    ] {
        assert_eq!(compiled(text).eval(&Unasked), verdict, "{text}");
    }
}

#[test]
fn a_decided_chain_is_left_in_one_step() {
    let steps = |text: String| {
        let mut work = Work::default();
        let rule = compiled(&text);
        let _ = rule.eval_counting(&Unasked, &mut work);
        work.steps
    };
    let chain = |links: usize| format!("false{}", " && has(tags.a)".repeat(links));
    assert_eq!(steps(chain(2)), steps(chain(60)));
    let chain = |links: usize| format!("true{}", " or has(tags.a)".repeat(links));
    assert_eq!(steps(chain(2)), steps(chain(60)));
}

#[test]
fn a_variable_stands_once_however_often_it_is_mentioned() {
    let rule = compiled("tags.a == 'x' ||\n  tags['a'] == 'y' || latency['m'].ttft_ms < 1");
    let names: Vec<String> = rule.vars().iter().map(Var::to_string).collect();
    assert_eq!(names, ["tags.a", "latency['m'].ttft_ms"]);
    assert_eq!(rule.places(), [(1, 6), (2, 31)]);
    assert_eq!(rule.text(), "tags.a == 'x' ||\n  tags['a'] == 'y' || latency['m'].ttft_ms < 1");
}

#[test]
fn answers_are_known_to_rules_about_answers_only() {
    for row in VARIABLES.iter().filter(|row| row.is_in_answers_only()) {
        let text = format!("has({})", row.name());
        assert!(Rule::compile(&text, Place::Request).is_err(), "{text}");
        assert!(Rule::compile(&text, Place::Answer).is_ok(), "{text}");
    }
}

#[test]
fn a_value_of_another_type_is_null() {
    struct Wrong;
    impl Vars for Wrong {
        fn read(&self, _index: usize, var: &Var) -> Value<'_> {
            match var {
                Var::Messages => Value::Text("five"),
                Var::Stream => Value::Number(1.0),
                _ => Value::Bool(true),
            }
        }
    }
    for text in [
        "request.messages > 3",
        "-request.messages > 3",
        "request.messages + 1 > 3",
        "request.stream",
        "!request.stream",
        "tags.x.startsWith('a')",
        "size(tags.x) > 0",
        "tags.x < 'a'",
    ] {
        assert_eq!(compiled(text).eval(&Wrong), Verdict::Null, "{text}");
    }
}

#[test]
fn a_nan_that_is_given_is_null() {
    struct Nan;
    impl Vars for Nan {
        fn read(&self, _index: usize, _var: &Var) -> Value<'_> {
            Value::Number(f64::NAN)
        }
    }
    assert_eq!(compiled("request.messages == null").eval(&Nan), Verdict::True);
    assert_eq!(compiled("has(request.messages)").eval(&Nan), Verdict::False);
    assert_eq!(compiled("request.messages >= 0").eval(&Nan), Verdict::Null);
}

// Limits, each met and passed by one.

#[test]
fn a_rule_may_have_four_kibibytes() {
    let text = |bytes: usize| format!("tags.x == '{}'", "a".repeat(bytes - 12));
    assert_eq!(text(TEXT_BYTES_MAX).len(), TEXT_BYTES_MAX);
    assert_eq!(says(&text(TEXT_BYTES_MAX)), Verdict::False);
    let fault = Rule::compile(&text(TEXT_BYTES_MAX + 1), Place::Request).unwrap_err();
    assert!(fault.message.contains("4097 bytes: 4096 are the most"), "{fault}");
}

#[test]
fn a_rule_may_nest_thirty_two_deep() {
    let deep = |open: &str, inner: &str, close: &str, times: usize| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    for (open, inner, close) in [
        ("(", "true", ")"),
        ("!", "true", ""),
        ("not ", "true", ""),
        ("false ? true : ", "true", ""),
        ("(true) && (", "true", ")"),
        ("1 + 1 == 2 == (", "true", ")"),
    ] {
        let most = DEPTH_MAX as usize;
        assert_eq!(says(&deep(open, inner, close, most)), Verdict::True, "{open}");
        let fault =
            Rule::compile(&deep(open, inner, close, most + 1), Place::Request).unwrap_err();
        assert!(fault.message.starts_with("the rule nests more than 32 deep"), "{fault}");
    }
    // What stands beside something is not inside of it.
    assert_eq!(says(&["(true)"; 100].join("&&")), Verdict::True);
    assert_eq!(says(&["!!!false"; 50].join("||")), Verdict::True);
}

#[test]
fn a_rule_may_have_two_hundred_and_fifty_six_parts() {
    let chain = |links: usize| vec!["true"; links].join("&&");
    let mut work = Work::default();
    // 128 values and the 127 signs between them; one more sign before one of them.
    let rule = Rule::compile_counting(&format!("!!{}", chain(127)), Place::Request, &mut work);
    assert!(rule.is_ok());
    assert_eq!(work.nodes, 255);
    assert_eq!(
        says(&format!("!!!!true && !{}", chain(124).replacen("true", "false", 1))),
        Verdict::True
    );
    let most = format!("!({})", chain(128));
    assert_eq!(says(&most), Verdict::False);
    let fault = Rule::compile(&format!("!{most}"), Place::Request).unwrap_err();
    assert!(fault.message.starts_with("the rule has more than 256 parts"), "{fault}");
    // A list has one part more than its elements.
    let list = |elements: usize| format!("1 in [{}]", vec!["2"; elements].join(","));
    assert_eq!(says(&list(NODES_MAX - 3)), Verdict::False);
    assert!(Rule::compile(&list(NODES_MAX - 2), Place::Request).is_err());
    // All of them on the stack at once.
    let list =
        |elements: usize| format!("1 in [{}]", vec!["time.hour_utc"; elements].join(","));
    assert_eq!(says(&list(NODES_MAX - 3)), Verdict::False);
}

/// Texts that somebody may send to do harm, and those that do it by accident.
fn hostile() -> Vec<String> {
    let most = TEXT_BYTES_MAX;
    let mut texts: Vec<String> = Vec::new();
    // One thing, over and over, up to and past the limit.
    for unit in [
        "(",
        ")",
        "[",
        "]",
        "{",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "&",
        "&&",
        "|",
        "||",
        "=",
        "==",
        "<",
        ">",
        ".",
        ",",
        "?",
        ":",
        "'",
        "\"",
        "`",
        "\\",
        "not ",
        "and ",
        "or ",
        "in ",
        "true ",
        "null ",
        "1 ",
        "1.",
        ".1",
        "1e",
        "a",
        "a.",
        "a(",
        "a[",
        "tags",
        "tags.",
        "tags.a ",
        "tags['",
        "tags['a']",
        "has(",
        "has(tags.a) ",
        "size(",
        "a?",
        "a?b:",
        "true?",
        "true?true:",
        "(true?(",
        "!(",
        "-(",
        "[[",
        "1+",
        "1-",
        "--",
        "1<",
        "'a' ",
        "'a'+",
        "x.startsWith(",
        "'a'.contains(",
        "\n",
        "\t",
        "\u{0}",
        "\u{feff}",
        "é",
        "😀",
        "\u{202e}",
        "//",
        "/*",
        "#",
    ] {
        texts.push(unit.repeat(most / unit.len()));
        texts.push(unit.repeat(most));
    }
    // The same in front of or behind something sound, and closed.
    for (open, inner, close) in [
        ("(", "true", ")"),
        ("!", "true", ""),
        ("-", "1", " == 1"),
        ("[", "1", "]"),
        ("size(", "'a'", ")"),
        ("true ? ", "true", " : false"),
        ("false ? true : ", "true", ""),
        ("true && ", "true", ""),
        ("true || ", "false", ""),
        ("1 + ", "1", " == 1"),
        ("tags.a == tags.b && ", "true", ""),
        ("1 in [1] && ", "true", ""),
        ("", "true", " && true"),
        ("", "tags.a", ".startsWith('a')"),
        ("", "tags", ".a"),
        ("", "tags", "['a']"),
    ] {
        for times in [31, 32, 33, 127, 128, 129, 1_000] {
            texts.push(format!("{}{inner}{}", open.repeat(times), close.repeat(times)));
        }
    }
    // Numbers and names of every length, distinct names, escapes.
    for length in [1, 16, 17, 200, 201, 308, 309, 310, most - 10] {
        texts.push(format!("{} > 1", "9".repeat(length)));
        texts.push(format!("0.{} > 1", "0".repeat(length)));
        texts.push(format!("1e{} > 1", "9".repeat(length)));
        texts.push(format!("1e-{} < 1", "9".repeat(length)));
        texts.push(format!("{} == 1", "x".repeat(length)));
        texts.push(format!("request.{} == 1", "y".repeat(length)));
        texts.push(format!("latency['{}'].ttft == 1", "z".repeat(length)));
        texts.push(format!("health['m'].state == '{}'", "o".repeat(length)));
        texts.push(format!("tags.x == '{}", "\\n".repeat(length)));
        texts.push(format!("tags.x.{}()", "f".repeat(length)));
    }
    let distinct = |unit: fn(usize) -> String| (0..600).map(unit).collect::<Vec<_>>();
    texts.push(distinct(|n| format!("has(tags.a{n})")).join("&&")[..most].to_owned());
    texts.push(distinct(|n| format!("has(tags.a{n})"))[..127].join("||"));
    texts.push(format!("tags.x in [{}]", distinct(|n| format!("'{n}'"))[..253].join(",")));
    texts.push(format!("tags.x in [{}]", distinct(|n| format!("tags.b{n}"))[..250].join(",")));
    texts
}

#[test]
fn hostile_texts_are_refused_or_evaluated_with_work_bounded_by_their_length() {
    let texts = hostile();
    assert!(texts.len() > 300);
    let (mut refused, mut evaluated) = (0, 0);
    for text in texts {
        fuzz::rules_parse(text.as_bytes());
        match Rule::compile(&text, Place::Answer) {
            Ok(_) => evaluated += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 200, "{refused}");
    assert!(evaluated > 40, "{evaluated}");
}

#[test]
fn twice_the_text_is_at_most_twice_the_work() {
    for unit in ["(", "!", "true&&", "1+", "tags.a ", "'a'", "a.", "[1,", "true?true:", "\\ "] {
        let work = |times: usize| {
            let mut work = Work::default();
            let _ = Rule::compile_counting(&unit.repeat(times), Place::Request, &mut work);
            work.tokens + work.nodes
        };
        for times in [50, 100, 200] {
            assert!(work(2 * times) <= 2 * work(times) + 4, "{unit} {times}");
        }
    }
}

// The bodies of the fuzz targets, over bytes that are always the same.

/// Bytes from a seed: a linear congruential generator, as any other would do.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn sound_rules_say_what_a_plain_interpreter_says() {
    for seed in 0..20_000 {
        fuzz::rules_eval(&bytes(seed, 8 + usize::try_from(seed).unwrap() % 160));
    }
}

#[test]
fn words_in_any_order_are_refused_or_evaluated() {
    const WORDS: [&str; 48] = [
        "true",
        "false",
        "null",
        "tags.a",
        "tags['b']",
        "request.stream",
        "request.messages",
        "request.input_tokens",
        "end_user",
        "response.text",
        "latency['m'].ttft_ms",
        "1",
        "0",
        "2.5",
        "'a'",
        "\"\"",
        "&&",
        "||",
        "and",
        "or",
        "not",
        "!",
        "==",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "in",
        "[",
        "]",
        "(",
        ")",
        "(",
        ")",
        ",",
        "?",
        ":",
        "+",
        "-",
        "*",
        "/",
        ".startsWith(",
        ".contains(",
        "has(",
        "size(",
        "\n",
        "é",
    ];
    let mut sound = 0;
    for seed in 0..20_000 {
        let length = 1 + usize::try_from(seed).unwrap() % 12;
        let words =
            bytes(seed, length).into_iter().map(|b| WORDS[usize::from(b) % WORDS.len()]);
        let text = words.collect::<Vec<_>>().join(" ");
        fuzz::rules_parse(text.as_bytes());
        sound += u32::from(Rule::compile(&text, Place::Answer).is_ok());
    }
    assert!(sound > 100, "{sound}");
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_evaluated(data in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz::rules_parse(&data);
    }

    #[test]
    fn any_text_is_refused_or_evaluated(text in "\\PC{0,200}") {
        fuzz::rules_parse(text.as_bytes());
    }

    #[test]
    fn any_text_of_its_own_letters_is_refused_or_evaluated(
        text in "[-a-c0-9 .'\"\\\\!&|=<>+*/?:,()\\[\\]\n]{0,60}",
    ) {
        fuzz::rules_parse(text.as_bytes());
    }

    #[test]
    fn a_sound_vector_with_a_hole_is_refused_or_evaluated(
        line in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in "[\\PC]{0,2}",
    ) {
        let vectors = vectors();
        let cases = vectors["cases"].as_array().unwrap();
        let mut text: Vec<char> = cases[line.index(cases.len())]["text"].as_str().unwrap().chars().collect();
        let at = at.index(text.len());
        text.splice(at..=at, with.chars());
        fuzz::rules_parse(text.into_iter().collect::<String>().as_bytes());
    }

    #[test]
    fn a_span_never_decides_what_a_number_in_it_does_not(
        data in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        fuzz::rules_eval(&data);
    }

    #[test]
    fn a_text_is_read_as_it_was_quoted(text in "\\PC{0,40}|[\\\\'\"\n\r\t\u{0}]{0,9}") {
        let spelled: Vec<String> =
            text.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
        let quoted = spelled.concat();
        let rule = compiled(&format!("end_user == '{quoted}' && size(end_user) == {}", text.chars().count()));
        let values = Given(HashMap::from([(Var::EndUser, Json::from(text))]));
        prop_assert_eq!(rule.eval(&values), Verdict::True);
    }

    #[test]
    fn integers_are_exact_to_two_to_the_fifty_third(number in 0..=(1_u64 << 53)) {
        prop_assert_eq!(says(&format!("{number} + 0 == {number}.0")), Verdict::True);
        if number > 0 {
            prop_assert_eq!(says(&format!("{} < {number}", number - 1)), Verdict::True);
        }
        let above = format!("{} > 0", (1_u64 << 53) + 1 + number);
        prop_assert!(Rule::compile(&above, Place::Request).is_err());
    }
}
