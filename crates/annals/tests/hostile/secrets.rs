//! A secret that clients send never appears in anything that the node writes,
//! whatever is asked of its log.
//!
//! Secrets are planted wherever clients put them, right and wrong: credentials of
//! every form in the metadata of every service, twice, over HTTP/1.1, in the
//! requests of the user service. Then everything that the node said is looked
//! through: its log at TRACE with the libraries asked for by name, its pages, its
//! answers.

use annals_proto::event_store::client::users::{
    ChangePasswordReq, CreateReq, ResetPasswordReq, UpdateReq, change_password_req, create_req, reset_password_req,
    update_req,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::call::{APPEND, Answer, BATCH, Call, DELETE, GROUPS, READ, RECORDS, SESSION, TOMBSTONE};
use crate::support::{get, http, run};
use crate::victim::Victim;

/// Everything that is asked for, by level and by name.
const LOG: &str = "trace,h2=trace,hyper=trace,hyper_util=trace,tonic=trace,tower=trace,rustls=trace,openraft=trace";

/// Secrets that are told, and how they could be written.
#[derive(Default)]
struct Planted(Vec<String>);

impl Planted {
    /// A new one, for this place.
    fn secret(&mut self, place: &str) -> String {
        let secret = format!("Canary{}{}", place.replace(|c: char| !c.is_alphanumeric(), ""), self.0.len());
        self.0.push(secret.clone());
        secret
    }

    /// One that a client spells itself.
    fn spelled(&mut self, secret: String) -> String {
        self.0.push(secret.clone());
        secret
    }

    #[track_caller]
    fn assert_absent(&self, told: &str, place: &str) {
        for secret in &self.0 {
            for form in forms(secret) {
                let found = told.find(&form);
                assert!(
                    found.is_none(),
                    "{place} holds {secret} as {form}: …{}…",
                    found.map_or("", |at| told.get(at.saturating_sub(200)..at + 100).unwrap_or(&told[at..]))
                );
            }
        }
    }
}

/// A secret in clear, reversed, in hexadecimal, and in base64 wherever it begins in
/// what is encoded.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), secret.chars().rev().collect()];
    forms.push(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
    for before in 0..3 {
        let encoded = BASE64_STANDARD.encode([&vec![b':'; before], secret.as_bytes()].concat());
        // The ends depend on what is beside it.
        forms.push(encoded[4..encoded.len() - 4].to_owned());
    }
    // As numbers, which is how bytes are printed.
    forms.push(secret.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", "));
    forms
}

fn methods() -> Vec<String> {
    let users = ["Create", "Update", "Delete", "Disable", "Enable", "Details", "ChangePassword", "ResetPassword"];
    let others = [
        "event_store.client.gossip.Gossip/Read",
        "event_store.client.server_features.ServerFeatures/GetSupportedMethods",
        "event_store.client.operations.Operations/Shutdown",
        "event_store.client.projections.Projections/Create",
        "annals.v1.Cluster/Status",
        "annals.internal.v1.Coordination/Greet",
        "annals.internal.v1.Replication/Vote",
        "nobody.Knows/This",
    ];
    let groups = ["Create", "Delete", "GetInfo", "List", "Read"];
    [APPEND, BATCH, READ, DELETE, TOMBSTONE, RECORDS, SESSION]
        .into_iter()
        .map(str::to_owned)
        .chain(groups.map(|method| format!("{GROUPS}/{method}")))
        .chain(users.map(|method| format!("/event_store.client.users.Users/{method}")))
        .chain(others.map(|path| format!("/{path}")))
        // Nothing is shut down here, whoever may.
        .filter(|path| !path.ends_with("/Shutdown"))
        .collect()
}

#[test]
fn a_secret_that_clients_send_appears_in_nothing_that_the_node_writes() {
    let _turn = crate::TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let victim = Victim::start(&["--log", LOG]);
    let port = victim.port;
    let mut planted = Planted::default();
    let mut told = String::new();
    let mut tell = |answer: Result<Answer, h2::Error>| match answer {
        Ok(answer) => {
            told.push_str(&answer.fields);
            told.push_str(&String::from_utf8_lossy(&answer.body));
        }
        Err(error) => told.push_str(&error.to_string()),
    };
    for path in methods() {
        let call = || Call::to(&path).with("grpc-timeout", b"2S").raw(b"");
        let user = format!("user:{}", planted.secret("basic"));
        let basic = format!("Basic {}", planted.spelled(BASE64_STANDARD.encode(user)));
        tell(call().with("authorization", basic.as_bytes()).make(port));
        let bearer = format!("Bearer {}", planted.secret("bearer"));
        tell(call().with("authorization", bearer.as_bytes()).make(port));
        tell(call().with("authorization", basic.as_bytes()).with("authorization", bearer.as_bytes()).make(port));
        // Of no form, by other names, as binary metadata, in the name of the method.
        tell(call().with("authorization", planted.secret("bare").as_bytes()).make(port));
        for name in ["x-api-key", "cookie", "proxy-authorization"] {
            tell(call().with(name, planted.secret(name).as_bytes()).make(port));
        }
        let binary = BASE64_STANDARD.encode(planted.secret("binary"));
        tell(call().with("token-bin", binary.as_bytes()).make(port));
        // In headers that are understood, where they make no sense.
        tell(call().with("grpc-timeout", planted.secret("timeout").as_bytes()).make(port));
    }
    users(port, &mut planted, &mut tell);
    // Over HTTP/1.1, and by the command line's own client.
    for path in ["/", "/info", "/gossip", "/metrics", "/stats", "/nothing", "/readyz"] {
        let user = format!("user:{}", planted.secret("http"));
        let basic = planted.spelled(BASE64_STANDARD.encode(user));
        let answer = http(port, "GET", path, &[&format!("authorization: Basic {basic}")]).expect("an answer");
        told.push_str(&answer.head);
        told.push_str(&answer.body);
    }
    for stream in ["canary-1", "$all"] {
        let url = format!("kurrentdb://user:{}@127.0.0.1:{port}?tls=false", planted.secret("url"));
        let ran = run(&["stream", "read", stream, "--server", &url]);
        told.push_str(&ran.err);
    }
    for page in ["/metrics", "/stats", "/info", "/gossip", "/"] {
        told.push_str(&get(port, page).body);
    }
    planted.assert_absent(&told, "an answer");
    let log = victim.finish();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log was turned up");
    planted.assert_absent(&log, "the log");
}

/// Passwords as the contents of requests.
fn users(port: u16, planted: &mut Planted, tell: &mut impl FnMut(Result<Answer, h2::Error>)) {
    let to = |method: &str| Call::to(&format!("/event_store.client.users.Users/{method}")).with("grpc-timeout", b"5S");
    let login = || "somebody".to_owned();
    for password in ["", "short", "long enough, with ünïcode"] {
        let mut secret = |place: &str| format!("{}{password}", planted.secret(place));
        let options = create_req::Options {
            login_name: login(),
            password: secret("create"),
            full_name: "Some Body".to_owned(),
            groups: vec!["$admins".to_owned()],
        };
        tell(to("Create").message(&CreateReq { options: Some(options) }).make(port));
        let options = update_req::Options {
            login_name: login(),
            password: secret("update"),
            full_name: "Some Body".to_owned(),
            groups: vec![],
        };
        tell(to("Update").message(&UpdateReq { options: Some(options) }).make(port));
        let options = change_password_req::Options {
            login_name: login(),
            current_password: secret("current"),
            new_password: secret("new"),
        };
        tell(to("ChangePassword").message(&ChangePasswordReq { options: Some(options) }).make(port));
        let options = reset_password_req::Options { login_name: login(), new_password: secret("reset") };
        tell(to("ResetPassword").message(&ResetPasswordReq { options: Some(options) }).make(port));
    }
}

#[test]
fn a_secret_is_found_however_it_is_written() {
    let mut planted = Planted::default();
    let secret = planted.secret("test");
    let encoded = BASE64_STANDARD.encode(format!("user:{secret}:more"));
    let backwards: String = secret.chars().rev().collect();
    for told in [secret.clone(), encoded, backwards, format!("{:?}", secret.as_bytes())] {
        let found = std::panic::catch_unwind(|| Planted(vec![secret.clone()]).assert_absent(&told, "here"));
        assert!(found.is_err(), "{told}");
    }
    planted.assert_absent("Canarytes", "a part of it is none");
}
