//! Typing and presence: they reach the live links of contacts, and nothing else of theirs moves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use rpc_core::{Request, Response, Server, ServerHandle, Status};
use wechat_demo::proto::{
    access::{self, AccessServer},
    logic as lp,
    terminal::{self, Sign, change_request::Change, sign::What},
};

use super::{Home, caller, change, code, who};
use rpc_core::Code;

/// An access process that notes the signs it is given, by link.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<Vec<(u64, Sign)>>>);

impl access::Access for Ears {
    fn notify(
        &self,
        request: Request<access::NotifyRequest>,
    ) -> Result<Response<access::NotifyReply>, Status> {
        let mut heard = self.0.lock().unwrap();
        for target in request.into_inner().targets {
            heard.extend(target.signs.into_iter().map(|sign| (target.link, sign)));
        }
        Ok(Response::new(access::NotifyReply::default()))
    }
}

impl Ears {
    fn open(&self) -> (String, ServerHandle) {
        let server = Server::builder()
            .add_service(AccessServer::new(self.clone()))
            .bind("127.0.0.1:0")
            .unwrap();
        let (address, handle) = (server.local_addr().to_string(), server.handle());
        rpc_core::spawn(move || server.serve().unwrap());
        (address, handle)
    }

    /// How often a link was told this.
    fn count(&self, link: u64, from: u64, what: What) -> usize {
        let sign = Sign {
            from,
            what: Some(what),
        };
        let heard = self.0.lock().unwrap();
        heard.iter().filter(|told| **told == (link, sign)).count()
    }
}

/// Three users of whom ann and bob, and dan and both, are contacts, and somebody who is nobody's.
struct Company {
    home: Home,
    ears: Ears,
    access: String,
    door: ServerHandle,
    ann: u64,
    bob: u64,
    dan: u64,
    eve: u64,
}

impl Company {
    fn start() -> Self {
        let home = Home::start();
        let [ann, bob, dan, eve] =
            ["ann", "bob", "dan", "eve"].map(|name| home.register(name, "secret1").unwrap());
        for (one, other) in [(ann, bob), (ann, dan), (bob, dan)] {
            home.befriend(one, other);
        }
        let ears = Ears::default();
        let (access, door) = ears.open();
        Self {
            home,
            ears,
            access,
            door,
            ann,
            bob,
            dan,
            eve,
        }
    }

    /// A link of a user's, whose number is the user's id.
    fn link(&self, user_id: u64, active: bool) {
        let link = lp::Link {
            user_id,
            device_id: 1,
            link: user_id,
            access: self.access.clone(),
            active,
        };
        let request = lp::RegisterLinksRequest { links: vec![link] };
        assert!(self.home.logic.register_links(request).unwrap().newest[0].reached);
    }

    fn typing(&self, from: u64, peer: u64) -> Result<(), Status> {
        let call = lp::TypingCall {
            caller: caller(from),
            request: Some(terminal::TypingRequest { peer }),
        };
        self.home.logic.typing(call).map(drop)
    }

    fn watch(&self, by: u64, user_ids: &[u64]) -> Result<BTreeMap<u64, bool>, Status> {
        let call = lp::PresenceCall {
            caller: caller(by),
            request: Some(terminal::PresenceRequest {
                user_ids: user_ids.to_vec(),
            }),
        };
        let reply = self.home.logic.presence(call)?.into_inner();
        let pairs = reply.presences.iter().map(|one| (one.user_id, one.here));
        Ok(pairs.collect::<BTreeMap<_, _>>())
    }

    fn hears(&self, link: u64, from: u64, what: What, times: usize) {
        self.home.until("the sign comes", || {
            self.ears.count(link, from, what) >= times
        });
        assert_eq!(self.ears.count(link, from, what), times);
    }

    fn block(&self, by: u64, user_id: u64, blocked: bool) {
        let block = Change::Block(terminal::Block { user_id, blocked });
        change(&self.home, who(by, 1), block).unwrap();
    }

    fn keys(&self) -> Vec<u64> {
        let users = [self.ann, self.bob, self.dan, self.eve];
        let key = |user| self.home.sync(user, 0, 1000).unwrap().key;
        users.map(key).to_vec()
    }

    fn end(self) {
        self.door.drain();
        self.home.stop();
    }
}

#[rpc_core::test]
fn typing_reaches_contacts_who_take_it_and_takes_no_number() {
    let all = Company::start();
    let (ann, bob, dan, eve) = (all.ann, all.bob, all.dan, all.eve);
    all.link(bob, true);
    let keys = all.keys();
    all.typing(ann, bob).unwrap();
    all.hears(bob, ann, What::Typing(true), 1);
    assert_eq!(all.keys(), keys, "what passes moves no timeline");
    assert_eq!(code(all.typing(eve, bob)), Code::FailedPrecondition);
    assert_eq!(code(all.typing(ann, eve)), Code::FailedPrecondition);
    assert_eq!(code(all.typing(ann, 0)), Code::FailedPrecondition);
    all.block(bob, ann, true);
    all.typing(ann, bob).expect("who is blocked is not told so");
    // Behind it on the same way.
    all.typing(dan, bob).unwrap();
    all.hears(bob, dan, What::Typing(true), 1);
    assert_eq!(all.ears.count(bob, ann, What::Typing(true)), 1);
    assert_eq!(
        code(all.typing(bob, ann)),
        Code::FailedPrecondition,
        "nor does one write to whom one blocks"
    );
    all.end();
}

#[rpc_core::test]
fn presence_is_for_contacts_who_are_not_blocked_and_takes_no_number() {
    let all = Company::start();
    let (ann, bob, dan, eve) = (all.ann, all.bob, all.dan, all.eve);
    all.link(ann, true);
    all.link(eve, true);
    let keys = all.keys();
    assert_eq!(
        all.watch(ann, &[bob, eve, dan]).unwrap(),
        [(bob, false), (dan, false)].into(),
        "of a stranger nothing is said"
    );
    assert_eq!(all.watch(eve, &[ann, bob]).unwrap(), [].into());
    all.link(bob, true);
    all.hears(ann, bob, What::Here(true), 1);
    all.link(bob, false);
    all.hears(ann, bob, What::Here(false), 1);
    let watching = all.watch(ann, &[bob, dan]).unwrap();
    assert_eq!(watching, [(bob, false), (dan, false)].into());
    assert_eq!(all.keys(), keys, "what passes moves no timeline");
    all.block(bob, ann, true);
    all.link(bob, true);
    all.link(dan, true);
    all.hears(ann, dan, What::Here(true), 1);
    all.link(dan, false);
    // Bob would have come with the first of the two.
    all.hears(ann, dan, What::Here(false), 1);
    assert_eq!(all.ears.count(ann, bob, What::Here(true)), 1);
    assert_eq!(all.watch(ann, &[bob, dan]).unwrap(), [(dan, false)].into());
    assert_eq!(
        all.ears.count(eve, bob, What::Here(true)) + all.ears.count(eve, ann, What::Here(true)),
        0
    );
    let many: Vec<u64> = (0..65).collect();
    assert_eq!(code(all.watch(ann, &many)), Code::InvalidArgument);
    all.end();
}

#[rpc_core::test]
fn a_flood_of_signs_is_limited_to_who_makes_it() {
    let all = Company::start();
    let (ann, bob, dan) = (all.ann, all.bob, all.dan);
    all.link(bob, true);
    let refused = (0..1000).find_map(|_| all.typing(ann, bob).err());
    assert_eq!(refused.unwrap().code(), Code::ResourceExhausted);
    assert_eq!(code(all.watch(ann, &[bob])), Code::ResourceExhausted);
    all.typing(dan, bob).unwrap();
    all.hears(bob, dan, What::Typing(true), 1);
    all.home.send(ann, bob, 1, "words still go").unwrap();
    all.end();
}
