//! Accounts, and what they may do (1.6, 5.1). Where the server asks nobody who they are,
//! only the former: `ANNALS_USERS` says that it does.

use std::time::SystemTime;

use kurrentdb::operations::{self, OperationalOptions, UserDetails};
use kurrentdb::{Acl, AppendToStreamOptions, Client, Error, StreamAclBuilder, StreamMetadataBuilder, StreamState};

use crate::support::*;

fn operator() -> operations::Client {
    operations::Client::new(url().parse().expect("a connection string")).expect("a client")
}

/// The same server with other credentials.
fn url_of(login: &str, password: &str) -> String {
    let (scheme, rest) = url().split_once("://").map(|(s, r)| (s.to_owned(), r.to_owned())).expect("a scheme");
    let hosts = rest.rsplit_once('@').map_or(rest.as_str(), |(_, hosts)| hosts).to_owned();
    format!("{scheme}://{login}:{password}@{hosts}")
}

fn asks_who() -> bool {
    std::env::var_os("ANNALS_USERS").is_some()
}

async fn details(client: &operations::Client, login: &str) -> Vec<UserDetails> {
    let mut answers = client.user_details(login, &OperationalOptions::default()).await.expect("details");
    let mut all = Vec::new();
    while let Some(details) = answers.next().await.expect("details") {
        all.push(details);
    }
    all
}

async fn made(login: &str, password: &str, groups: &[&str]) -> operations::Client {
    let client = operator();
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    client.create_user(login, password, "Ann Example", groups, &OperationalOptions::default()).await.expect("made");
    client
}

#[tokio::test]
async fn an_account_is_made_told_changed_disabled_and_deleted() {
    let options = OperationalOptions::default();
    let login = fresh();
    let client = made(&login, "secret", &["sales"]).await;
    let told = details(&client, &login).await;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].login.as_str(), told[0].full_name.as_str()), (login.as_str(), "Ann Example"));
    assert_eq!((told[0].groups.as_slice(), told[0].disabled), (&["sales".to_owned()][..], false));
    let age = SystemTime::now().duration_since(told[0].last_updated.expect("a time")).unwrap_or_default();
    assert!(age.as_secs() < 60, "{age:?}");
    assert!(details(&client, "").await.iter().any(|user| user.login == login), "it is among all");

    client.create_user(&login, "x", "", vec![], &options).await.expect_err("there is one");
    client.update_user(&login, "", "Ann Other", vec!["ops".to_owned()], &options).await.expect("updated");
    client.disable_user(&login, &options).await.expect("disabled");
    let told = details(&client, &login).await;
    assert_eq!((told[0].full_name.as_str(), told[0].disabled), ("Ann Other", true));
    client.enable_user(&login, &options).await.expect("enabled");
    client.change_user_password(&login, "wrong", "other", &options).await.expect_err("the present one is needed");
    client.change_user_password(&login, "secret", "other", &options).await.expect("changed");
    client.reset_user_password(&login, "third", &options).await.expect("reset");
    client.delete_user(&login, &options).await.expect("deleted");
    let gone = client.user_details(&login, &options).await;
    assert!(matches!(gone, Err(Error::ResourceNotFound)) || gone.is_err(), "it is gone");
    for refused in ["", "a:b", "$admins"] {
        client.create_user(refused, "x", "", vec![], &options).await.expect_err("no login name");
    }
}

#[tokio::test]
async fn a_list_of_rights_holds_for_every_call() {
    if !asks_who() {
        return;
    }
    let (ann, bob) = (fresh(), fresh());
    made(&ann, "anns", &["sales"]).await;
    made(&bob, "bobs", &[]).await;
    let (anns, bobs) = (connect_to(&url_of(&ann, "anns")), connect_to(&url_of(&bob, "bobs")));
    let stream = fresh();
    add(&anns, &stream, 3).await;
    let acl = StreamAclBuilder::new().add_read_roles("sales").add_write_roles(&ann).add_delete_roles(&ann).build();
    let metadata = StreamMetadataBuilder::new().acl(Acl::Stream(acl)).build();
    let options = AppendToStreamOptions::default();
    connect().set_stream_metadata(stream.as_str(), &options, &metadata).await.expect("an administrator may");

    assert_eq!(read(&anns, &stream).await.expect("read").len(), 3);
    add(&anns, &stream, 1).await;
    denied(read(&bobs, &stream).await);
    denied(append(&bobs, &stream, StreamState::Any, &events(1)).await);
    denied(tombstone(&bobs, &stream, StreamState::Any).await);
    denied(delete(&bobs, &stream, StreamState::Any).await);
    let wrong: Client = connect_to(&url_of(&ann, "bobs"));
    read(&wrong, &stream).await.expect_err("a wrong password proves nothing");
}

#[track_caller]
fn denied<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::AccessDenied)), "{result:?}");
}
