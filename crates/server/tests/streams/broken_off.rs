//! Calls that are broken off.

use std::time::Duration;

use annals_proto::event_store::client::streams as s;
use futures::{Stream, StreamExt as _, stream};

use crate::node::*;
use crate::requests::*;

#[tokio::test]
async fn calls_that_are_given_up_leave_nothing_behind() {
    let channel = shared().await;
    let stream = fresh("given-up");
    must_append(&channel, &stream, &events(100)).await;
    for _ in 0..200 {
        drop(open(&channel, forwards(&stream)).await.expect("opened"));
        drop(open(&channel, subscribing(forwards(&stream))).await.expect("opened"));
    }
    // Appends of which only the half ever comes.
    for _ in 0..20 {
        let half = stream::iter([append_options(&fresh("half"), Any), frame(event("T"))]).chain(forever());
        let mut client = streams(&channel);
        let call = client.append(half);
        assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err(), "it waits for the rest");
    }
    assert_serving(&channel).await;
}

fn forever() -> impl Stream<Item = s::AppendReq> + Send + 'static {
    stream::pending()
}
