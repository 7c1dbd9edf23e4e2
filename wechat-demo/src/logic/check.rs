//! What may come in: sizes and forms, each refusal naming what and how much.

use rpc_core::Status;

use crate::{
    model::limits::{
        ADDRESS_BYTES, DEVICE_LABEL_BYTES, GREETING_BYTES, LINKS_PER_CALL, MESSAGES_PER_SEND,
        NAME_BYTES, NICKNAME_BYTES, PASSWORD_MAX_BYTES, PASSWORD_MIN_BYTES, TEXT_BYTES,
    },
    proto::{logic as lp, terminal},
};

pub(super) fn name(name: &str) -> Result<(), Status> {
    length("a name", name.len(), 1, NAME_BYTES)?;
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Status::invalid_argument(
            "a name has no spaces and no control characters",
        ));
    }
    Ok(())
}

pub(super) fn nickname(nickname: &str) -> Result<(), Status> {
    length("a nickname", nickname.len(), 0, NICKNAME_BYTES)
}

pub(super) fn password(password: &str) -> Result<(), Status> {
    length(
        "a password",
        password.len(),
        PASSWORD_MIN_BYTES,
        PASSWORD_MAX_BYTES,
    )
}

pub(super) fn device(label: &str) -> Result<(), Status> {
    length("a device's label", label.len(), 0, DEVICE_LABEL_BYTES)
}

pub(super) fn greeting(greeting: &str) -> Result<(), Status> {
    length("a greeting", greeting.len(), 0, GREETING_BYTES)
}

pub(super) fn send(request: &terminal::SendRequest) -> Result<(), Status> {
    let count = request.messages.len();
    if count == 0 || count > MESSAGES_PER_SEND {
        let text =
            format!("a send request has 1 to {MESSAGES_PER_SEND} messages, this one {count}");
        return Err(Status::invalid_argument(text));
    }
    for message in &request.messages {
        length("a client id", message.client_id.len(), 16, 16)?;
        length("a text", message.text.len(), 0, TEXT_BYTES)?;
    }
    Ok(())
}

pub(super) fn links(links: &[lp::Link]) -> Result<(), Status> {
    if links.len() > LINKS_PER_CALL {
        let text = format!(
            "a call has at most {LINKS_PER_CALL} links, this one {}",
            links.len()
        );
        return Err(Status::invalid_argument(text));
    }
    for link in links {
        length("an access address", link.access.len(), 1, ADDRESS_BYTES)?;
    }
    Ok(())
}

fn length(what: &str, bytes: usize, least: usize, most: usize) -> Result<(), Status> {
    if (least..=most).contains(&bytes) {
        return Ok(());
    }
    let text = match least {
        0 => format!("{what} has at most {most} bytes, this one {bytes}"),
        _ if least == most => format!("{what} has {most} bytes, this one {bytes}"),
        _ => format!("{what} has {least} to {most} bytes, this one {bytes}"),
    };
    Err(Status::invalid_argument(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_printable_word() {
        for good in ["a", "alice", "王小明", "x.y-z_9"] {
            assert!(name(good).is_ok(), "{good:?}");
        }
        let long = "x".repeat(NAME_BYTES + 1);
        for bad in ["", "a b", "a\n", "\u{3000}", &long] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_and_how_much() {
        let status = password("short").unwrap_err();
        assert_eq!(
            status.message(),
            "a password has 6 to 256 bytes, this one 5"
        );
    }

    #[test]
    fn a_send_request_is_bounded() {
        let message = |id: usize, text: usize| terminal::Outgoing {
            client_id: vec![0; id].into(),
            text: "x".repeat(text),
        };
        let request = |messages| terminal::SendRequest {
            receiver: 1,
            messages,
        };
        assert!(send(&request(vec![message(16, TEXT_BYTES); MESSAGES_PER_SEND])).is_ok());
        assert!(send(&request(vec![])).is_err());
        assert!(send(&request(vec![message(16, 1); MESSAGES_PER_SEND + 1])).is_err());
        assert!(send(&request(vec![message(15, 1)])).is_err());
        assert!(
            send(&request(vec![message(16, 0)])).is_ok(),
            "people send empty lines"
        );
        assert!(send(&request(vec![message(16, TEXT_BYTES + 1)])).is_err());
    }
}
