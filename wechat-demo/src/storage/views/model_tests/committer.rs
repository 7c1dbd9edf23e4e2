//! What the committer of each process does: log, acknowledgements, learners.

use super::*;

impl World {
    /// The committer's part: makes the log whole, sends it, recruits, has the learners join.
    pub fn replicate(&mut self, id: Id) {
        let life = self.lives[id].as_mut().expect("it lives");
        let Standing::With(crew) = life.machine.standing() else {
            return;
        };
        if life.whole.is_none_or(|(whole, _)| !reigns(life, whole)) {
            match crew.holder() {
                Some(to) => {
                    let (to, epoch) = (place(to), crew.epoch);
                    return self.say(id, to, Word::Marks { epoch });
                }
                // Its log is the truth.
                None => self.be_whole(id, crew.epoch),
            }
        }
        if self.faults && self.chance(1000) {
            let clock = self.clock(id);
            let life = self.lives[id].as_mut().expect("it lives");
            // Nobody may follow it.
            let _ = life.machine.hand_over(clock);
        }
        for (post, member) in [
            (Post::Backup, &crew.backup),
            (Post::Follower, &crew.follower),
        ] {
            let to = match member {
                Some(member) => place(member),
                None => self.learner(id, post),
            };
            let log = self.disks[id].log.clone();
            let life = self.lives[id].as_mut().expect("it lives");
            let level = has(life, to) == Some(log.len());
            if post == Post::Follower && member.is_some() && level && life.machine.hands_over() {
                life.machine.handed();
                return;
            }
            // A follower joins when it has all that was acknowledged: rounds go on meanwhile.
            let near = post == Post::Follower && has(life, to) >= Some(life.committed);
            if member.is_none() && (level || near) {
                life.learners[usize::from(post == Post::Follower)] = None;
                life.machine.join(post);
            }
            if !level {
                let epoch = crew.epoch;
                self.say(id, to, Word::Append { epoch, log });
            }
        }
        self.commit(id);
    }

    /// Who is to be brought level for a post: somebody else after a second.
    fn learner(&mut self, id: Id, post: Post) -> Id {
        let clock = self.clock(id);
        let (index, here) = (usize::from(post == Post::Follower), id < AWAY);
        let there = here == (post == Post::Backup);
        let all: Vec<Id> = (0..PROCESSES)
            .filter(|&other| other != id && (other < AWAY) == there)
            .collect();
        let other = all[self.rng.below(all.len() as u64) as usize];
        let life = self.lives[id].as_mut().expect("it lives");
        match life.learners[index] {
            Some((learner, since)) if clock < since + Duration::from_secs(1) => learner,
            _ => {
                life.learners[index] = Some((other, clock));
                life.machine.set_learner(post, Some(member(other)));
                other
            }
        }
    }

    pub fn be_whole(&mut self, id: Id, epoch: u64) {
        // The limit in the log is what a hand-over resumes at, in this incarnation.
        let limit = self.disks[id].log.last().map_or(0, |entry| entry.limit);
        let life = self.lives[id].as_mut().expect("it lives");
        if life.whole.is_none_or(|(whole, _)| !reigns(life, whole)) {
            let last = limit.max(Seq::new(incarnation(life), 0).0);
            life.whole = Some((epoch, last));
        }
    }

    pub fn submit(&mut self) {
        let Some(id) = (0..PROCESSES).find(|&id| self.serves(id)) else {
            return;
        };
        let geo = self.chance(3);
        let life = self.lives[id].as_mut().expect("it lives");
        let epoch = match life.machine.standing() {
            Standing::With(crew) if takes(&crew, self.min_copies) => crew.epoch,
            _ => return,
        };
        if life.machine.hands_over() {
            return;
        }
        let (_, last) = life.whole.as_mut().expect("it serves");
        *last += 1;
        let disk = &mut self.disks[id];
        let limit = disk.log.last().map_or(0, |entry| entry.limit);
        self.next_value += 1;
        disk.log.push(Entry {
            epoch,
            value: self.next_value,
            number: *last,
            limit: if *last > limit { *last + STEP } else { limit },
            geo,
        });
        let (number, length) = (life.number, disk.log.len());
        let wait = self.millis(1, 20);
        self.after(wait, Event::Synced(id, number, length));
        self.replicate(id);
    }

    /// V-2: acknowledges what the backup has, or the follower where there is no backup; as `geo` what the follower has too.
    pub fn commit(&mut self, id: Id) {
        let disk = &self.disks[id];
        let life = self.lives[id].as_mut().expect("it lives");
        let Standing::With(crew) = life.machine.standing() else {
            return;
        };
        if life.whole.is_none_or(|(whole, _)| !reigns(life, whole))
            || !takes(&crew, self.min_copies)
        {
            return;
        }
        let held = match crew.holder() {
            Some(member) => has(life, place(member)).unwrap_or(0),
            None => disk.log.len(),
        };
        let upto = held.min(disk.synced);
        let follower = crew
            .follower
            .as_ref()
            .map(|follower| has(life, place(follower)).unwrap_or(0));
        let followed = follower.map_or(0, |has| has.min(upto));
        let incarnation = incarnation(life);
        let local = disk
            .log
            .iter()
            .take(upto)
            .skip(life.committed)
            .filter(|entry| !entry.geo);
        let geo = disk
            .log
            .iter()
            .take(followed)
            .skip(life.followed)
            .filter(|entry| entry.geo);
        for entry in local.chain(geo) {
            let Entry {
                value, number, geo, ..
            } = *entry;
            // Said again after a restart, it is what it was.
            let acked = self.acked.entry(value).or_insert(Acked {
                number,
                geo,
                incarnation,
            });
            assert_eq!(acked.number, number);
            let before = self.numbers.insert(number, value);
            assert!(
                before.is_none_or(|before| before == value),
                "number {number} was given twice"
            );
        }
        life.committed = life.committed.max(upto);
        life.followed = life.followed.max(followed);
    }
}

/// How much of this life's log another has, as far as it has said so in this reign.
fn has(life: &Life, id: Id) -> Option<usize> {
    let (epoch, length) = life.has.get(&id)?;
    reigns(life, *epoch).then_some(*length)
}

pub fn incarnation(life: &Life) -> Incarnation {
    life.machine
        .view()
        .map_or(Incarnation(0), |view| view.incarnation)
}

/// Whether there are copies enough for writes.
fn takes(crew: &Crew, min_copies: usize) -> bool {
    crew.holder().is_some() || crew.sole || min_copies == 1
}
