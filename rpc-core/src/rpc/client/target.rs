//! Where a channel connects to, as text.
//!
//! Knows: addresses and lists of them.   Does not know: sockets, who is there.

use crate::net::address;
use crate::rpc::error::Error;

/// `list://a:1,b:2`, `a:1` or `unix:/a` as addresses.
pub(super) fn parse_target(target: &str) -> Result<Vec<String>, Error> {
    let list = match target.split_once("://") {
        None => target,
        Some(("list", list)) => list,
        Some((scheme, _)) => {
            return Err(Error::Config(format!(
                "cannot connect to {target}: no naming scheme {scheme}://; write list://HOST:PORT,…, \
                 zk://HOST:PORT,…/PATH, HOST:PORT or unix:PATH"
            )));
        }
    };
    let addresses: Vec<String> = list.split(',').map(|addr| addr.trim().to_owned()).collect();
    addresses.iter().try_for_each(|addr| check_address(addr))?;
    Ok(addresses)
}

/// Whether a server may be there at all.
pub(super) fn check_address(addr: &str) -> Result<(), Error> {
    let port = addr
        .rsplit_once(':')
        .map(|(host, port)| (host, port.parse::<u16>()));
    if address::is_local(addr) || matches!(port, Some((host, Ok(1..))) if !host.is_empty()) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "cannot connect to {addr:?}: expected HOST:PORT with a port from 1 to 65535, or unix:PATH"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_a_plain_address_are_read() {
        assert_eq!(parse_target("list://a:1,b:2").unwrap(), ["a:1", "b:2"]);
        assert_eq!(parse_target("127.0.0.1:80").unwrap(), ["127.0.0.1:80"]);
        assert_eq!(parse_target("[::1]:80").unwrap(), ["[::1]:80"]);
    }

    #[test]
    fn a_wrong_target_says_what_was_expected() {
        for wrong in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:70000",
            "list://",
            "list://a:1,",
            "a:x",
        ] {
            let text = parse_target(wrong).unwrap_err().to_string();
            assert!(text.contains("HOST:PORT"), "{wrong}: {text}");
        }
        let text = parse_target("moon://a:1/x").unwrap_err().to_string();
        assert!(
            text.contains("moon://") && text.contains("list://"),
            "{text}"
        );
    }
}
