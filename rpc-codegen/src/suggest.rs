//! Names that were probably meant.
//!
//! Knows: spelling.   Does not know: what the names stand for.

/// The name nearest to `wanted` (its last part counts) within two edits, if any.
pub(crate) fn nearest<'a>(wanted: &str, known: &'a [String]) -> Option<&'a str> {
    let wanted = wanted.rsplit('.').next().unwrap_or(wanted);
    let scored = known.iter().map(|name| (distance(wanted, name), name));
    let (edits, name) = scored.min_by_key(|(edits, _)| *edits)?;
    (edits <= 2 && edits < wanted.chars().count()).then_some(name)
}

/// Levenshtein's edit distance, one row of the table at a time.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_name_and_a_stranger_finds_none() {
        let known = ["HelloRequest".to_owned(), "HelloReply".to_owned()];
        assert_eq!(nearest("greeter.HelloReqest", &known), Some("HelloRequest"));
        assert_eq!(nearest("HeloReply", &known), Some("HelloReply"));
        assert_eq!(nearest("Order", &known), None);
        assert_eq!(nearest("A", &["B".to_owned()]), None);
    }

    #[test]
    fn distance_counts_single_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
