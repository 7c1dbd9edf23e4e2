//! gRPC's `grpc-timeout`: a number of at most eight digits and a unit (PROTOCOL-HTTP2.md).

use std::time::Duration;

/// Digits of the number.
const DIGITS_MAX: usize = 8;
/// The number itself stays below this.
const MOST: u128 = 100_000_000;

/// The time that `text` says; `None` if it says none.
pub fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    let fine = (1..=DIGITS_MAX).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !fine {
        return None;
    }
    let number = digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// `timeout` in the finest unit it fits, from microseconds up, rounded up: a call never gets less time
/// than its caller gave.
pub fn format(timeout: Duration) -> String {
    let nanos = timeout.as_nanos();
    let units = [
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
    ];
    let fitting = units
        .iter()
        .map(|(unit, letter)| (nanos.div_ceil(*unit), *letter))
        .find(|(number, _)| *number < MOST);
    let (number, letter) =
        fitting.unwrap_or((nanos.div_ceil(3_600_000_000_000).min(MOST - 1), 'H'));
    format!("{number}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_comes_back_and_never_shorter() {
        for nanos in [
            0,
            1,
            999,
            1000,
            1_500_000,
            99_999_999_000,
            100_000_000_001,
            u64::MAX,
        ] {
            let timeout = Duration::from_nanos(nanos);
            let text = format(timeout);
            let back = parse(text.as_bytes()).unwrap();
            assert!(back >= timeout && text.len() <= 9, "{timeout:?}: {text}");
            assert!(back.as_nanos() - timeout.as_nanos() <= timeout.as_nanos() / 100 + 1000);
        }
        assert_eq!(format(Duration::MAX), "99999999H");
    }

    #[test]
    fn what_is_no_timeout_is_none() {
        for text in ["", "m", "1", "1x", "123456789m", "-1m", "1.5S", " 1S"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"100m"), Some(Duration::from_millis(100)));
    }
}
