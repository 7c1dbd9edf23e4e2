//! Addresses as text: `HOST:PORT`, `unix:PATH`, `unix-abstract:NAME`.
//!
//! Knows: the three forms, name resolution.   Does not know: what is done with them.

use std::io;
use std::net::ToSocketAddrs;

use socket2::SockAddr;

/// Begins the name of a socket in the file system.
const UNIX: &str = "unix:";
/// Begins the name of a socket outside it, which lives as long as its listener (Linux).
const ABSTRACT: &str = "unix-abstract:";

/// True for a socket of this machine, `unix:…`, which has no port.
pub fn is_local(text: &str) -> bool {
    text.starts_with(UNIX) || text.starts_with(ABSTRACT)
}

/// What `text` stands for; a name may have several addresses. An empty `unix-abstract:` is a name that the
/// kernel chooses when it is bound.
///
/// # Errors
/// It is none of the three forms, the name does not resolve, or the path is too long (107 bytes).
pub fn resolve(text: &str) -> io::Result<Vec<SockAddr>> {
    if let Some(name) = text.strip_prefix(ABSTRACT) {
        let path = match name {
            "" => String::new(),
            name => format!("\0{name}"),
        };
        return Ok(vec![SockAddr::unix(path)?]);
    }
    if let Some(path) = path_of(text) {
        if path.is_empty() {
            let text = "expected a path after unix:";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        return Ok(vec![SockAddr::unix(path)?]);
    }
    Ok(text.to_socket_addrs()?.map(SockAddr::from).collect())
}

/// The path of `unix:PATH` and of gRPC's longer form, `unix:///PATH`.
fn path_of(text: &str) -> Option<&str> {
    let path = text.strip_prefix(UNIX)?;
    Some(match path.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        _ => path,
    })
}

/// The text that [`resolve`] takes for `addr`; empty for an address without a name.
pub fn text_of(addr: &SockAddr) -> String {
    if let Some(addr) = addr.as_socket() {
        return addr.to_string();
    }
    if let Some(name) = addr.as_abstract_namespace() {
        return format!("{ABSTRACT}{}", String::from_utf8_lossy(name));
    }
    let path = addr.as_pathname();
    path.map_or_else(String::new, |path| format!("{UNIX}{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_written_alike() {
        for text in [
            "127.0.0.1:80",
            "[::1]:80",
            "unix:/a/b",
            "unix:c",
            "unix-abstract:x",
        ] {
            let addr = &resolve(text).unwrap()[0];
            assert_eq!(text_of(addr), text);
            assert_eq!(is_local(text), addr.is_unix());
        }
        assert_eq!(text_of(&resolve("unix:///a/b").unwrap()[0]), "unix:/a/b");
    }

    #[test]
    fn a_path_that_is_empty_or_too_long_is_refused() {
        assert!(resolve("unix:").unwrap_err().to_string().contains("a path"));
        assert!(resolve(&format!("unix:/{}", "x".repeat(108))).is_err());
    }
}
