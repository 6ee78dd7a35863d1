//! Command-line flags of the two binaries: `--name value`, and `--name` alone for a switch.

use std::str::FromStr;

/// The flags of this process, in order.
pub struct Flags(Vec<(String, Option<String>)>);

impl Flags {
    /// Read flags.
    ///
    /// # Errors
    /// A word that belongs to no flag.
    pub fn read(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags: Vec<(String, Option<String>)> = Vec::new();
        for word in words {
            if let Some(name) = word.strip_prefix("--") {
                flags.push((name.to_owned(), None));
            } else if let Some((_, value @ None)) = flags.last_mut() {
                *value = Some(word);
            } else {
                return Err(format!("`{word}` belongs to no flag"));
            }
        }
        Ok(Self(flags))
    }

    /// Refuse flags that the program does not have.
    ///
    /// # Errors
    /// Names the first one.
    pub fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => {
                Err(format!("`--{name}` is unknown; known: {}", known.join(", ")))
            }
            None => Ok(()),
        }
    }

    /// Is the switch there?
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(flag, _)| flag == name)
    }

    /// All values of a flag that may be repeated.
    pub fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.0
            .iter()
            .filter(move |(flag, _)| flag == name)
            .filter_map(|(_, value)| value.as_deref())
    }

    /// The last value of a flag, or `default`.
    ///
    /// # Errors
    /// The value does not parse.
    pub fn value<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        match self.all(name).last() {
            Some(text) => text.parse().map_err(|_| format!("`--{name} {text}` cannot be read")),
            None => Ok(default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> Result<Flags, String> {
        Flags::read(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_last_value_wins_and_a_missing_one_is_the_default() {
        let flags = flags("--rate 5 --watch 1 --watch 2 --rate 7 --idle").unwrap();
        assert_eq!(flags.value("rate", 0).unwrap(), 7);
        assert_eq!(flags.value("seed", 3).unwrap(), 3);
        assert_eq!(flags.all("watch").collect::<Vec<_>>(), ["1", "2"]);
        assert!(flags.has("idle") && !flags.has("seed"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(flags("5").is_err());
        assert!(flags("--rate x").unwrap().value("rate", 0).unwrap_err().contains("rate"));
        assert!(flags("--raet 5").unwrap().only(&["rate"]).unwrap_err().contains("raet"));
    }
}
