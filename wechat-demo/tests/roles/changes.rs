//! What a user does to a message to another user.

use wechat_demo::proto::terminal::{self, change_request::Change};

pub fn edit(message_id: u64, text: &str) -> Change {
    Change::Edit(terminal::Edit {
        message_id,
        text: text.to_owned(),
        group_id: 0,
    })
}

pub fn recall(message_id: u64) -> Change {
    Change::Recall(terminal::Recall {
        message_id,
        group_id: 0,
    })
}
