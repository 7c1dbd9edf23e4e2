//! Pictures, files and voice messages in `chat`: sent from files, saved to files by the numbers on the screen.
//!
//! Knows: the words, which files.   Does not know: how bytes travel.

use std::path::Path;

use wechat_demo::proto::terminal::{self as pb, change_request::Change, media::Sort};
use wechat_demo::terminal::media::{FILE_TYPE, image_type, voice_type};
use wechat_demo::terminal::new_client_id;

use super::{Chat, PATIENCE, printable};

/// Media on the screen that can be saved; the numbers of those before them are good no longer.
const REMEMBERED: usize = 1_000;

/// A line about media, as it is meant.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    /// To the peer.
    Send(Sort, &'a str),
    /// Of that number on the screen, to a file.
    Save(usize, &'a str),
    /// The small picture of the picture of that number, to a file.
    SaveSmall(usize, &'a str),
    /// A post for all friends: files with commas between, then its text.
    Post(Vec<&'a str>, &'a str),
}

/// Media by the numbers under which they were shown.
#[derive(Default)]
pub(super) struct Shown {
    /// The newest, at most [`REMEMBERED`].
    kept: std::collections::VecDeque<pb::Media>,
    /// How many were shown.
    count: usize,
}

/// Reads a command's word and the rest; `None` if it is none of these.
pub(super) fn parse<'a>(word: &str, rest: &'a str) -> Option<Line<'a>> {
    if rest.is_empty() {
        return None;
    }
    Some(match word {
        "image" => Line::Send(Sort::Image, rest),
        "file" => Line::Send(Sort::File, rest),
        "voice" => Line::Send(Sort::Voice, rest),
        "save" | "small" => {
            let (number, path) = rest.split_once(' ')?;
            let (number, path) = (number.parse().ok()?, path.trim());
            match word {
                "save" => Line::Save(number, path),
                _ => Line::SaveSmall(number, path),
            }
        }
        "pictures" => {
            let (paths, text) = rest.split_once(' ').unwrap_or((rest, ""));
            Line::Post(paths.split(',').collect(), text.trim())
        }
        _ => return None,
    })
}

impl Shown {
    /// The number of one that is shown now.
    fn number(&mut self, media: &pb::Media) -> usize {
        if self.kept.len() == REMEMBERED {
            self.kept.pop_front();
        }
        self.kept.push_back(media.clone());
        self.count += 1;
        self.count
    }

    fn get(&self, number: usize) -> Option<&pb::Media> {
        let first = self.count - self.kept.len() + 1;
        self.kept.get(number.checked_sub(first)?)
    }
}

impl Chat {
    /// Does what a line about media says.
    pub(super) fn media(&mut self, line: &Line<'_>) -> anyhow::Result<()> {
        match line {
            Line::Send(sort, path) => {
                let media = self.upload(*sort, path)?;
                let extra = pb::Extra {
                    media: Some(media),
                    ..pb::Extra::default()
                };
                self.send_on(self.peer, String::new(), extra)
            }
            Line::Save(number, path) => {
                self.edge.fetch(self.on_screen(*number)?, Path::new(path))?;
                println!("— {number} is in {path}");
                Ok(())
            }
            Line::SaveSmall(number, path) => {
                let media = self.on_screen(*number)?;
                if media.small_size == 0 {
                    anyhow::bail!("{number} has no small picture; /save keeps it whole");
                }
                self.edge.fetch_small(media, Path::new(path))?;
                println!("— {number}, small, is in {path}");
                Ok(())
            }
            Line::Post(paths, text) => {
                let uploaded = paths.iter().map(|path| self.upload(Sort::Image, path));
                let media: anyhow::Result<_> = uploaded.collect();
                let post = pb::NewPost {
                    client_id: new_client_id(),
                    text: (*text).to_owned(),
                    media: media?,
                    audience: None,
                };
                self.terminal.change(Change::NewPost(post), PATIENCE)?;
                println!("— done");
                Ok(())
            }
        }
    }

    fn on_screen(&self, number: usize) -> anyhow::Result<&pb::Media> {
        let shown = self.shown_media.get(number);
        shown.ok_or_else(|| anyhow::anyhow!("nothing with number {number} is on the screen"))
    }

    /// What stands on the screen of media: what each is, and how it is saved.
    pub(super) fn media_line(&mut self, media: &pb::Media) -> String {
        let sort = media.sort().as_str_name().to_lowercase();
        let number = self.shown_media.number(media);
        format!(
            "[{sort} {}, {}; /save {number} PATH] ",
            printable(&media.name),
            in_words(media.size)
        )
    }

    /// Uploads a file; until then nothing points to it.
    fn upload(&self, sort: Sort, path: &str) -> anyhow::Result<pb::Media> {
        let path = Path::new(path);
        let content_type = match sort {
            Sort::Image => image_type(path).ok_or("a picture's name ends in .jpg, .png or .webp"),
            Sort::Voice => {
                voice_type(path).ok_or("a voice message's name ends in .ogg, .amr, .mp3 or .wav")
            }
            _ => Ok(FILE_TYPE),
        };
        let content_type = content_type
            .map_err(|why| anyhow::anyhow!("{}: {why}; /file sends anything", path.display()))?;
        Ok(self.edge.upload(path, content_type)?)
    }
}

fn in_words(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} bytes"),
        1_024..1_048_576 => format!("{} KiB", bytes / 1_024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_lines_name_files_and_numbers() {
        assert_eq!(
            parse("image", "a b.png"),
            Some(Line::Send(Sort::Image, "a b.png"))
        );
        assert_eq!(parse("save", "3 x.bin"), Some(Line::Save(3, "x.bin")));
        assert_eq!(
            parse("pictures", "a.png,b.jpg hi there"),
            Some(Line::Post(vec!["a.png", "b.jpg"], "hi there"))
        );
        for (word, rest) in [
            ("image", ""),
            ("save", "3"),
            ("save", "x y"),
            ("other", "x"),
        ] {
            assert_eq!(parse(word, rest), None, "{word} {rest}");
        }
    }

    #[test]
    fn the_newest_media_on_the_screen_have_numbers() {
        let mut shown = Shown::default();
        assert!(shown.get(0).is_none() && shown.get(1).is_none());
        for size in 1..=REMEMBERED as u64 + 1 {
            let media = pb::Media {
                size,
                ..pb::Media::default()
            };
            assert_eq!(shown.number(&media) as u64, size);
        }
        assert!(shown.get(1).is_none(), "it made room");
        assert_eq!(shown.get(2).map(|media| media.size), Some(2));
        assert!(shown.get(REMEMBERED + 2).is_none());
    }
}
