//! What is remembered of networks, and asking a dispatch that answers well, badly, or not at all.

use std::net::TcpListener;

use super::*;

fn network(n: u8) -> Prefix {
    Prefix::around([127, n, 0, 1].into(), NETWORK_BITS)
}

fn candidates(weights: &[(u8, u32)]) -> Vec<Candidate> {
    let candidate = |(n, weight): &(u8, u32)| Candidate {
        address: address(*n).to_string(),
        weight: *weight,
    };
    weights.iter().map(candidate).collect()
}

fn address(n: u8) -> SocketAddr {
    ([127, 0, 0, n], 1).into()
}

#[test]
fn what_was_used_last_stays_first_while_it_is_about_as_good() {
    let (mut memory, here) = (Memory::default(), network(1));
    memory.learn(here, candidates(&[(1, 1_000), (2, 900), (3, 10)]));
    assert_eq!(memory.order(here), [1, 2, 3].map(address));
    memory.used(here, address(2));
    assert_eq!(memory.order(here), [2, 1, 3].map(address));
    memory.learn(here, candidates(&[(1, 1_000), (2, 900)]));
    assert_eq!(memory.order(here), [2, 1].map(address), "asked again");
    memory.learn(here, candidates(&[(1, 1_000), (2, 100)]));
    assert_eq!(memory.order(here), [1, 2].map(address), "far by now");
    memory.learn(here, candidates(&[(1, 1_000)]));
    assert_eq!(memory.order(here), [address(1)], "draining, or gone");
    memory.learn(here, Vec::new());
    assert_eq!(
        memory.order(here),
        [address(1)],
        "an empty answer says nothing"
    );
}

#[test]
fn networks_do_not_mix_and_are_bounded() {
    let mut memory = Memory::default();
    for n in 0..100 {
        memory.learn(network(n), candidates(&[(n, 1)]));
        memory.used(network(n), address(n));
    }
    assert_eq!(memory.networks.len(), NETWORKS);
    assert_eq!(memory.order(network(99)), [address(99)]);
    assert!(memory.order(network(0)).is_empty(), "the oldest went");
    memory.learn(network(99), candidates(&[(1, 1); 9]));
    assert_eq!(memory.order(network(99)).len(), CANDIDATES);
    let nonsense = Candidate {
        address: "nowhere".to_owned(),
        weight: 1,
    };
    memory.learn(network(98), vec![nonsense]);
    assert_eq!(
        memory.order(network(98)),
        [address(98)],
        "what cannot be an address is passed over"
    );
}

/// A dispatch that gives this answer to every question.
fn dispatch(answer: &str) -> String {
    let answer = answer.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut bytes = [0; 1 << 10];
            let _ = stream.read(&mut bytes);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

fn finder(dispatch: &str, memory: Option<PathBuf>) -> Finder {
    Finder::new(Place {
        address: address(9).to_string(),
        dispatch: Some(dispatch.to_owned()),
        local: None,
        memory,
    })
}

const GOOD: &str = r#"{"candidates":[{"address":"127.0.0.7:1","weight":1000}]}"#;

fn answer(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn dispatch_is_believed_and_remembered_over_a_restart_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("networks.json");
    let found = finder(&dispatch(&answer(GOOD)), Some(file.clone()))
        .addresses()
        .unwrap();
    assert_eq!(found, [address(7)]);

    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let later = finder(&gone.to_string(), Some(file.clone()))
        .addresses()
        .unwrap();
    assert_eq!(later, [address(7)]);
    std::fs::write(&file, "{").unwrap();
    let given = finder(&gone.to_string(), Some(file)).addresses().unwrap();
    assert_eq!(
        given,
        [address(9)],
        "neither dispatch nor memory: what it was given"
    );
}

#[test]
fn a_second_connection_goes_by_the_answer_to_the_first_and_asks_meanwhile() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let asking = finder(&listener.local_addr().unwrap().to_string(), None);
    let answers = std::thread::spawn(move || {
        // The second is never answered: who waited for it would not end.
        let (mut first, _) = listener.accept().unwrap();
        let _ = first.read(&mut [0; 1 << 10]);
        first.write_all(answer(GOOD).as_bytes()).unwrap();
        listener.accept().unwrap().0
    });
    assert_eq!(asking.addresses().unwrap(), [address(7)]);
    assert_eq!(asking.addresses().unwrap(), [address(7)]);
    drop(answers.join().unwrap());
}

#[test]
fn a_bad_answer_is_passed_over_and_the_next_dispatch_is_asked() {
    for bad in [
        "HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\nnone",
        "HTTP/1.1 200 OK\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        "SSH-2.0",
    ] {
        let found = finder(&dispatch(bad), None).addresses().unwrap();
        assert_eq!(found, [address(9)], "{bad}");
    }
    let nothing = Finder::new(Place {
        address: "no-port".to_owned(),
        dispatch: Some("127.0.0.1:1".to_owned()),
        ..Place::default()
    });
    let error = nothing.addresses().unwrap_err().to_string();
    assert!(
        error.contains("127.0.0.1:1") && error.contains("no-port"),
        "{error}"
    );
}
