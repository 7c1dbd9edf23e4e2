//! Wall clocks that jump and disagree.
//!
//! Leases run by another clock, which never jumps (V-4); what rests on the wall clock is what people read, and what
//! expires.

use std::path::{Path, PathBuf};

use anyhow::Context;
use wechat_demo::cluster::{Plan, Role};
use wechat_demo::model::clock::CLOCK;

use super::faults::{Faults, Kind, TROUBLE_MS};

/// How far a clock jumps, ms: well beyond a link's life, and within that of a token.
const JUMP_MS: (u64, u64) = (1_000, 6 * 3_600_000);

/// Lets the clocks of a plan's processes be set.
pub(super) fn can_jump(dir: &Path, plan: &mut Plan) {
    for role in Role::ALL {
        let file = clock_file(dir, role).display().to_string();
        plan.environment.push((role, CLOCK.to_owned(), file));
    }
}

/// Says how far a role's clock is ahead.
fn clock_file(dir: &Path, role: Role) -> PathBuf {
    dir.join(format!("{role}.clock"))
}

impl Faults {
    /// The clock of one process jumps, ahead or back, and some time later back to where it belongs.
    pub(super) fn jump_clock(&self) -> anyhow::Result<String> {
        let role = self.role();
        let far = self.between(JUMP_MS).as_millis();
        let (sign, way) = match self.below(2) {
            0 => ("", "ahead"),
            _ => ("-", "back"),
        };
        let file = clock_file(&self.cluster().layout().dir, role);
        let failed = || file.display().to_string();
        self.tell(Kind::ClockJump, role.name());
        std::fs::write(&file, format!("{sign}{far}")).with_context(failed)?;
        std::thread::sleep(self.between(TROUBLE_MS));
        std::fs::remove_file(&file).with_context(failed)?;
        Ok(format!("{role} by {} s {way}", far / 1_000))
    }
}
