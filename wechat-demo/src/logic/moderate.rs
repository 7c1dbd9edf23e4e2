//! Who looks at what is said before it goes out.
//!
//! Knows: sender and text.   Does not know: receivers, storage.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::model::UserId;

/// Looks at texts: of messages, edits, greetings, nicknames. Called on the sender's coroutine, before anything is
/// kept; what takes long here makes the sender wait.
pub trait Moderator: Send + Sync + 'static {
    /// Whether `text` may go out.
    ///
    /// # Errors
    /// What the sender is told; nothing is sent then.
    fn look(&self, sender: UserId, text: &str) -> Result<(), String>;
}

/// Refuses texts that contain one of a list of words, whatever their case. An empty list refuses nothing.
#[derive(Debug, Default)]
pub struct WordList {
    /// In lower case, none empty.
    words: Vec<String>,
}

/// Words of a list at most: each text is searched for each.
const WORDS: usize = 10_000;

impl WordList {
    /// Reads a file with a word a line; empty lines and such that begin with `#` count for nothing.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        let list = Self::parse(&text);
        ensure!(
            list.words.len() <= WORDS,
            "{} has {} words, at most {WORDS}",
            file.display(),
            list.words.len()
        );
        Ok(list)
    }

    fn parse(text: &str) -> Self {
        let words = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_lowercase)
            .collect();
        Self { words }
    }
}

impl Moderator for WordList {
    fn look(&self, _sender: UserId, text: &str) -> Result<(), String> {
        if self.words.is_empty() {
            return Ok(());
        }
        let text = text.to_lowercase();
        match self.words.iter().find(|word| text.contains(word.as_str())) {
            Some(_) => Err("the text has a word that is not taken here; change it".to_owned()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_word_is_found_in_any_case_and_comments_are_no_words() {
        let list = WordList::parse("# not these\n\n Spam \n");
        assert!(list.look(UserId(1), "buy SPAM now").is_err());
        assert!(list.look(UserId(1), "# not these").is_ok());
        assert!(WordList::default().look(UserId(1), "spam").is_ok());
    }
}
