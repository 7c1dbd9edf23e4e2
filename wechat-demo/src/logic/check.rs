//! What may come in: sizes and forms, each refusal naming what and how much.

use rpc_core::Status;

use crate::{
    model::ClientMsgId,
    model::limits::{
        ADDRESS_BYTES, ANNOUNCEMENT_BYTES, AUDIENCE_USERS, AVATAR_BYTES, COMMENT_BYTES,
        CONTENT_TYPE_BYTES, DEVICE_LABEL_BYTES, EMOJI_BYTES, FILE_ID_BYTES, FILE_NAME_BYTES,
        GREETING_BYTES, GROUP_NAME_BYTES, GROUP_NAMED, HASH_BYTES, LINKS_PER_CALL, MEDIA_KEY_BYTES,
        MENTIONS, MESSAGES_PER_SEND, NAME_BYTES, NICKNAME_BYTES, PASSWORD_MAX_BYTES,
        PASSWORD_MIN_BYTES, POST_MEDIA, POST_TEXT_BYTES, PUSH_TOKEN_MAX_BYTES,
        PUSH_TOKEN_MIN_BYTES, QUOTE_BYTES, REMARK_BYTES, TEXT_BYTES,
    },
    proto::{
        logic as lp,
        terminal::{self, audience::Who, change_request::Change, group_change::What, media::Sort},
    },
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

fn client_id(id: &[u8]) -> Result<(), Status> {
    let (least, most) = ClientMsgId::BYTES.into_inner();
    length("a client id", id.len(), least, most)
}

pub(super) fn send(request: &terminal::SendRequest) -> Result<(), Status> {
    let count = request.messages.len();
    if count == 0 || count > MESSAGES_PER_SEND {
        let text =
            format!("a send request has 1 to {MESSAGES_PER_SEND} messages, this one {count}");
        return Err(Status::invalid_argument(text));
    }
    for message in &request.messages {
        client_id(&message.client_id)?;
        length("a text", message.text.len(), 0, TEXT_BYTES)?;
        message.extra.as_ref().map_or(Ok(()), extra)?;
    }
    Ok(())
}

/// What a user wants to change; what only storage can tell is checked there.
pub(super) fn change(change: &Change) -> Result<(), Status> {
    match change {
        Change::Remark(request) => length("a remark", request.remark.len(), 0, REMARK_BYTES),
        Change::Edit(request) => length("a text", request.text.len(), 0, TEXT_BYTES),
        Change::React(request) => length("a reaction", request.emoji.len(), 0, EMOJI_BYTES),
        Change::Profile(request) => profile(request),
        Change::DeleteAccount(request) => password(&request.password),
        Change::NewPassword(request) => password(&request.old).and(password(&request.new)),
        Change::CreateGroup(request) => {
            client_id(&request.client_id)?;
            length("a group's name", request.name.len(), 1, GROUP_NAME_BYTES)?;
            members(&request.members)
        }
        Change::Group(request) => match &request.what {
            None => Err(Status::invalid_argument(
                "the request names no change of a group that is known here",
            )),
            Some(What::Name(name)) => length("a group's name", name.len(), 1, GROUP_NAME_BYTES),
            Some(What::Announcement(text)) => {
                length("an announcement", text.len(), 0, ANNOUNCEMENT_BYTES)
            }
            Some(What::Invite(all) | What::Kick(all)) => members(&all.user_ids),
            Some(_) => Ok(()),
        },
        Change::PushToken(request) => push_token(&request.token),
        Change::NewPost(post) => new_post(post),
        Change::NewComment(comment) => {
            client_id(&comment.client_id)?;
            length("a comment", comment.text.len(), 1, COMMENT_BYTES)
        }
        Change::DeletePost(_)
        | Change::Like(_)
        | Change::DeleteComment(_)
        | Change::Block(_)
        | Change::RemoveContact(_)
        | Change::Recall(_)
        | Change::Mark(_)
        | Change::Mute(_)
        | Change::LogOut(_) => Ok(()),
    }
}

fn profile(profile: &terminal::Profile) -> Result<(), Status> {
    profile.nickname.as_deref().map_or(Ok(()), nickname)?;
    let Some(avatar) = &profile.avatar else {
        return Ok(());
    };
    length("an avatar", avatar.len(), 0, AVATAR_BYTES)?;
    if avatar.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let text = "an avatar is a URL or a file id, without spaces and control characters";
        return Err(Status::invalid_argument(text));
    }
    Ok(())
}

/// It becomes part of a path at the push service: digits alone.
fn push_token(token: &str) -> Result<(), Status> {
    if token.is_empty() {
        return Ok(());
    }
    length(
        "a push token",
        token.len(),
        PUSH_TOKEN_MIN_BYTES,
        PUSH_TOKEN_MAX_BYTES,
    )?;
    if token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let text = "a push token is in hexadecimal digits, as the push service gave it";
    Err(Status::invalid_argument(text))
}

fn new_post(post: &terminal::NewPost) -> Result<(), Status> {
    client_id(&post.client_id)?;
    length("a post's text", post.text.len(), 0, POST_TEXT_BYTES)?;
    if post.media.len() > POST_MEDIA || (post.media.is_empty() && post.text.is_empty()) {
        let text = format!("a post has a text, or 1 to {POST_MEDIA} pictures, or both");
        return Err(Status::invalid_argument(text));
    }
    post.media.iter().try_for_each(media)?;
    let Some(audience) = &post.audience else {
        return Ok(());
    };
    let named = audience.user_ids.len();
    let right = match Who::try_from(audience.who) {
        Ok(Who::All | Who::Nobody) => named == 0,
        Ok(Who::Only | Who::Except) => (1..=AUDIENCE_USERS).contains(&named),
        Err(_) => false,
    };
    if right {
        return Ok(());
    }
    let text = format!(
        "an audience is all, nobody, or 1 to {AUDIENCE_USERS} users that are or are not in it"
    );
    Err(Status::invalid_argument(text))
}

fn members(user_ids: &[u64]) -> Result<(), Status> {
    if (1..=GROUP_NAMED).contains(&user_ids.len()) {
        return Ok(());
    }
    let text = format!(
        "name 1 to {GROUP_NAMED} users at once, not {}",
        user_ids.len()
    );
    Err(Status::invalid_argument(text))
}

fn media(media: &terminal::Media) -> Result<(), Status> {
    if media.sort() == Sort::Unspecified {
        return Err(Status::invalid_argument(
            "a media pointer is to an image, a file or a voice message",
        ));
    }
    length("a file id", media.file_id.len(), 1, FILE_ID_BYTES)?;
    length("a content hash", media.hash.len(), HASH_BYTES, HASH_BYTES)?;
    length(
        "a media key",
        media.key.len(),
        MEDIA_KEY_BYTES,
        MEDIA_KEY_BYTES,
    )?;
    length(
        "a content type",
        media.content_type.len(),
        1,
        CONTENT_TYPE_BYTES,
    )?;
    length("a file name", media.name.len(), 0, FILE_NAME_BYTES)?;
    if media.small_size > 0 {
        length(
            "the hash of a small picture",
            media.small_hash.len(),
            HASH_BYTES,
            HASH_BYTES,
        )?;
    } else {
        length("the hash of no small picture", media.small_hash.len(), 0, 0)?;
    }
    if media.size == 0 {
        return Err(Status::invalid_argument(
            "a media pointer is to at least one byte",
        ));
    }
    Ok(())
}

fn extra(extra: &terminal::Extra) -> Result<(), Status> {
    extra.media.as_ref().map_or(Ok(()), media)?;
    if let Some(quote) = &extra.reply_to {
        length("a quoted text", quote.text.len(), 0, QUOTE_BYTES)?;
    }
    let mut mentions = extra.mentions.clone();
    mentions.sort_unstable();
    mentions.dedup();
    if mentions.len() != extra.mentions.len() || mentions.len() > MENTIONS {
        let text = format!("a message mentions at most {MENTIONS} users, each once");
        return Err(Status::invalid_argument(text));
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
            extra: None,
            count: 0,
        };
        let request = |messages| terminal::SendRequest {
            key: 0,
            receiver: 1,
            messages,
            geo: false,
        };
        assert!(send(&request(vec![message(16, TEXT_BYTES); MESSAGES_PER_SEND])).is_ok());
        assert!(send(&request(vec![])).is_err());
        assert!(send(&request(vec![message(16, 1); MESSAGES_PER_SEND + 1])).is_err());
        assert!(send(&request(vec![message(7, 1)])).is_err());
        assert!(
            send(&request(vec![message(16, 0)])).is_ok(),
            "people send empty lines"
        );
        assert!(send(&request(vec![message(16, TEXT_BYTES + 1)])).is_err());
    }
}
