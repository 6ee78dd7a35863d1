//! Regular expressions as JSON Schema writes them, run in linear time.
//!
//! A schema's patterns are ECMA-262's. Those that look around or back, which no engine runs in
//! linear time, are not compiled: a caller must not choose how long an answer takes to check.

use regex::{Regex, RegexBuilder};

/// What a compiled pattern may take. Classes of Unicode take most of it.
const PROGRAM_BYTES_MAX: usize = 128 << 10;
/// What a pattern takes that is cheap to run: it has some hundred states.
const SMALL_PROGRAM_BYTES_MAX: usize = 16 << 10;
/// What the states that are made while it runs may take.
const STATES_BYTES_MAX: usize = 256 << 10;

/// One compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
    is_small: bool,
}

impl Pattern {
    /// Compile a pattern of ECMA-262; None where that cannot be done within bounds.
    pub(super) fn compile(pattern: &str) -> Option<Self> {
        let translated = translate(pattern)?;
        let compile = |bytes| {
            RegexBuilder::new(&translated)
                .size_limit(bytes)
                .dfa_size_limit(STATES_BYTES_MAX)
                .build()
                .ok()
        };
        if let Some(regex) = compile(SMALL_PROGRAM_BYTES_MAX) {
            return Some(Self { regex, is_small: true });
        }
        Some(Self { regex: compile(PROGRAM_BYTES_MAX)?, is_small: false })
    }

    /// Whether it is found anywhere in a text.
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// What a match costs at most, in steps of a check.
    pub(super) fn steps(&self, text: &str) -> u64 {
        let bytes = text.len() as u64;
        1 + if self.is_small { bytes / 16 } else { bytes * 4 }
    }
}

/// What ECMA-262 means, in the words of the `regex` crate.
fn translate(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut letters = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                let escaped = letters.next()?;
                match escaped {
                    // Of ASCII alone, as without the `u` and `i` flags together.
                    'd' => out.push_str("[0-9]"),
                    'D' => out.push_str("[^0-9]"),
                    'w' => out.push_str("[0-9A-Za-z_]"),
                    'W' => out.push_str("[^0-9A-Za-z_]"),
                    'b' if in_class => out.push_str("\\x08"),
                    'b' => out.push_str("(?-u:\\b)"),
                    'B' => out.push_str("(?-u:\\B)"),
                    // Words of the `regex` crate that ECMA-262 does not have.
                    'A' | 'z' | 'a' | 'U' | '<' | '>' => return None,
                    _ => {
                        out.push('\\');
                        out.push(escaped);
                    }
                }
            }
            '[' if in_class => out.push_str("\\["),
            // Operators between sets there, if doubled.
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(letter);
            }
            '[' => {
                in_class = true;
                out.push('[');
                if letters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                match letters.peek() {
                    // An empty class matches nothing, its opposite anything: rare, and another
                    // thing there.
                    Some(']') | None => return None,
                    _ => {}
                }
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            '.' if !in_class => out.push_str("[^\\n\\r\\x{2028}\\x{2029}]"),
            _ => out.push(letter),
        }
    }
    // A flag group would change what follows; ECMA-262 has none but non-capturing and named ones.
    let has_flags = out.match_indices("(?").any(|(at, _)| {
        let rest = &out[at + 2..];
        !(rest.starts_with(':') || rest.starts_with('<') || rest.starts_with("-u:\\"))
    });
    (!has_flags).then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_ecma_262() {
        for (pattern, text, is_match) in [
            ("^\\d{4}-\\d{2}$", "2024-01", true),
            ("^\\d+$", "١٢", false),
            ("^\\w+$", "é", false),
            ("^[\\w.]+@x$", "a.b@x", true),
            ("^\\W$", "é", true),
            ("b", "abc", true),
            ("^a.c$", "a\rc", false),
            ("^a.c$", "aéc", true),
            ("a$", "a\n", false),
            ("^[[a]$", "[", true),
            ("^[a&&b]$", "&", true),
            ("^[a~~b]+$", "~ab", true),
            ("^\\/x\\-y$", "/x-y", true),
            ("^\\u00e9$", "é", true),
            ("^\\x41$", "A", true),
            ("\\bcat\\b", "a cat.", true),
            ("\\bcat\\b", "écaté", true),
            ("^(?:a|b)(?<n>c)$", "bc", true),
            ("^\\p{L}+$", "éß", true),
            ("^\\s$", "\u{a0}", true),
            ("^[^a]$", "b", true),
            ("", "x", true),
        ] {
            let compiled = Pattern::compile(pattern);
            assert_eq!(compiled.map(|it| it.is_match(text)), Some(is_match), "{pattern}");
        }
    }

    #[test]
    fn what_linear_time_cannot_do_is_not_compiled() {
        for pattern in [
            "(?=a)",
            "(?!a)",
            "(?<=a)b",
            "(?<!a)b",
            "(a)\\1",
            "(",
            "[]",
            "[^]",
            "a{9999999}",
            "((a{100}){100}){100}",
            "\\",
            "(?i)a",
            "(?-u:a)",
            "(?x: a)",
            "\\A",
            "\\z",
            "*",
        ] {
            assert!(Pattern::compile(pattern).is_none(), "{pattern}");
        }
    }

    #[test]
    fn a_large_pattern_costs_more() {
        let small = Pattern::compile("^[a-z]+$").unwrap();
        let large = Pattern::compile("(a|b){500}c").unwrap();
        assert!(large.steps("0123456789abcdef") > 10 * small.steps("0123456789abcdef"));
    }

    proptest! {
        #[test]
        fn any_text_is_compiled_or_not(pattern in ".{0,30}", text in ".{0,30}") {
            if let Some(pattern) = Pattern::compile(&pattern) {
                let _ = pattern.is_match(&text);
            }
        }

        #[test]
        fn any_pattern_letters_are_compiled_or_not(pattern in r"[\[\]()\\^$.?*+{}|a-dwsb:<>=!0-9&~-]{0,12}") {
            if let Some(compiled) = Pattern::compile(&pattern) {
                let _ = compiled.is_match("abcd");
            }
        }
    }
}
