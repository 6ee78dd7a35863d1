//! Takes keys and e-mail addresses out of bodies before they are stored.
//!
//! Linear in the body whatever the patterns are: the `regex` crate has no backtracking, and
//! what it cannot do in linear time it does not accept. A text that a provider streams in
//! pieces (one event a token) is searched as it stands, piece by piece: a key that is cut over
//! two events is not found. Whoever must not store such text sets `store_bodies` to `metadata`.

use std::borrow::Cow;

use regex::bytes::{Regex, RegexBuilder};

/// What stands in the place of what was taken out: no quote, so JSON stays JSON.
pub const MARK: &[u8] = b"[redacted]";

/// Compiled size of one pattern of the operator's: what 10 MB of tables can hold.
const PATTERN_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Keys, as their makers write them.
///
/// Each begins with a word that hardly occurs otherwise, at the start of a word: so that the
/// search is one pass for a few fixed strings, and `task-` holds no `sk-`.
const KEYS: &str = concat!(
    r"(?-u)\b(?:",
    r"sk-[A-Za-z0-9_\-]{16,}",
    r"|mlx_(?:sk|mk|scim)_[A-Za-z0-9_\-]{16,}",
    r"|AIza[A-Za-z0-9_\-]{30,}",
    r"|gh[pousr]_[A-Za-z0-9]{20,}",
    r"|github_pat_[A-Za-z0-9_]{20,}",
    r"|glpat-[A-Za-z0-9_\-]{16,}",
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"|xox[abpors]-[A-Za-z0-9\-]{10,}",
    r"|gsk_[A-Za-z0-9]{20,}",
    r"|xai-[A-Za-z0-9]{20,}",
    r"|hf_[A-Za-z0-9]{20,}",
    r"|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}",
    r"|[Bb]earer[ ]+[A-Za-z0-9_\-.~+/]{16,}=*",
    r")",
);

/// E-mail addresses; only looked for where there is an `@` at all.
const EMAIL: &str =
    r"(?-u)[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}\b";

/// A pattern that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct PatternFault {
    /// Which of the operator's patterns, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub why: String,
}

/// The patterns, compiled.
pub struct Redactor {
    keys: Regex,
    email: Regex,
    further: Vec<Regex>,
}

impl Redactor {
    /// Compile the default patterns and the operator's further ones.
    ///
    /// # Errors
    /// The first pattern that is no regular expression of linear time, that matches the empty
    /// text (it would mark every position), or that is too big.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, PatternFault> {
        let mut further = Vec::with_capacity(patterns.len());
        for (index, pattern) in patterns.iter().enumerate() {
            let regex = compile(pattern.as_ref()).map_err(|why| PatternFault { index, why })?;
            if regex.is_match(b"") {
                return Err(PatternFault {
                    index,
                    why: "it matches the empty text".to_owned(),
                });
            }
            further.push(regex);
        }
        let own = |why| PatternFault { index: 0, why };
        Ok(Self {
            keys: compile(KEYS).map_err(own)?,
            email: compile(EMAIL).map_err(own)?,
            further,
        })
    }

    /// `text` with every match replaced by [`MARK`]; borrowed where there was none.
    #[must_use]
    pub fn redact<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let mut text = replace(&self.keys, Cow::Borrowed(text));
        if memchr::memchr(b'@', &text).is_some() {
            text = replace(&self.email, text);
        }
        for regex in &self.further {
            text = replace(regex, text);
        }
        text
    }
}

impl Redactor {
    /// A record without the keys in it: who sends one for a model or a tag has lost it, too.
    ///
    /// Only keys: addresses name end users, and patterns of the operator's may not know JSON.
    #[must_use]
    pub fn redact_record<'t>(&self, record: &'t [u8]) -> Cow<'t, [u8]> {
        replace(&self.keys, Cow::Borrowed(record))
    }
}

fn replace<'t>(regex: &Regex, text: Cow<'t, [u8]>) -> Cow<'t, [u8]> {
    match text {
        Cow::Borrowed(text) => regex.replace_all(text, regex::bytes::NoExpand(MARK)),
        Cow::Owned(text) => {
            match regex.replace_all(&text, regex::bytes::NoExpand(MARK)) {
                // Nothing found: keep the buffer that is there.
                Cow::Borrowed(_) => Cow::Owned(text),
                Cow::Owned(replaced) => Cow::Owned(replaced),
            }
        }
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redact(text: &str) -> String {
        let redactor = Redactor::new::<&str>(&[]).unwrap();
        String::from_utf8(redactor.redact(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn a_record_loses_keys_and_keeps_addresses() {
        let redactor = Redactor::new(&["[0-9]+"]).unwrap();
        let record =
            br#"{"model":"sk-abcdefghijklmnopqrstuvwx","end_user":"a@b.example","n":1}"#;
        assert_eq!(
            redactor.redact_record(record).as_ref(),
            br#"{"model":"[redacted]","end_user":"a@b.example","n":1}"#
        );
    }

    #[test]
    fn keys_of_every_known_maker_are_taken_out() {
        for key in [
            "sk-abcdefghijklmnopqrstuvwx",
            "sk-proj-abc_DEF-0123456789abcdef",
            "sk-ant-api03-abcdefghijklmnopqrstuvwxyz",
            "sk-or-v1-0123456789abcdef0123456789abcdef",
            "AIzaSyA-0123456789abcdefghijklmnopqrstu",
            "mlx_sk_0123456789abcdefghij",
            "mlx_mk_0123456789abcdefghij",
            "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
            "AKIAIOSFODNN7EXAMPLE",
            "Bearer abcdefghijklmnop.qrstuv==",
            "hf_abcdefghijklmnopqrstuvwxyz",
        ] {
            assert_eq!(
                redact(&format!("{{\"a\":\"{key}\"}}")),
                "{\"a\":\"[redacted]\"}",
                "{key}"
            );
        }
    }

    #[test]
    fn addresses_are_taken_out_and_what_surrounds_them_stays() {
        assert_eq!(
            redact("\"mail jo.doe+x@mail.example.co.uk, please.\""),
            "\"mail [redacted], please.\""
        );
        assert_eq!(redact("a@b and @c and d@"), "a@b and @c and d@");
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for text in [
            "the task-management-system-of-tomorrow",
            "a disk-encryption-and-backup-tool",
            "sk-short",
            "the bearer of bad news",
            "AKIA",
            "",
        ] {
            assert_eq!(redact(text), text);
        }
        let redactor = Redactor::new::<&str>(&[]).unwrap();
        assert!(matches!(redactor.redact(b"nothing \xFF here"), Cow::Borrowed(_)));
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_a_key() {
        let redactor = Redactor::new::<&str>(&[]).unwrap();
        let found = redactor.redact(b"\xFF\xFE sk-abcdefghijklmnopqrstuvwx \xFF");
        assert_eq!(found.as_ref(), b"\xFF\xFE [redacted] \xFF");
    }

    #[test]
    fn further_patterns_are_used_and_bad_ones_are_named() {
        let redactor = Redactor::new(&["EMP-[0-9]{4}", r"\d{3}-\d{2}"]).unwrap();
        assert_eq!(redactor.redact(b"EMP-1234 123-45").as_ref(), b"[redacted] [redacted]");
        let fault = |pattern: &str| Redactor::new(&["ok", pattern]).err().unwrap();
        assert_eq!(fault("(").index, 1);
        assert_eq!(fault("a*").why, "it matches the empty text");
        assert!(fault(r"(a)\1").why.contains("backreferences"));
    }

    proptest! {
        #[test]
        fn redacting_twice_changes_nothing_more(text in "[sk@a.b \"-]{0,80}|.{0,200}") {
            let redactor = Redactor::new::<&str>(&[]).unwrap();
            let once = redactor.redact(text.as_bytes()).into_owned();
            let twice = redactor.redact(&once).into_owned();
            prop_assert_eq!(twice, once);
        }

        #[test]
        fn a_key_is_found_wherever_it_stands(
            before in "[ \"\\n:,]{0,20}", key in "sk-[A-Za-z0-9]{16,60}", after in "[ \"\\n,]{1,20}"
        ) {
            let redacted = redact(&format!("{before}{key}{after}"));
            prop_assert_eq!(redacted, format!("{before}[redacted]{after}"));
        }
    }
}
