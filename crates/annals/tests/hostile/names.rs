//! Names of streams: what is no name, what is ours, what only looks like another.

use annals_proto::event_store::client::StreamIdentifier;
use annals_proto::event_store::client::streams::{DeleteReq, TombstoneReq, delete_req, tombstone_req};
use uuid::Uuid;

use crate::Shape;
use crate::call::{Call, DELETE, INVALID_ARGUMENT, OK, PERMISSION_DENIED, TOMBSTONE};
use crate::values::{append, append_to, read_stream};
use crate::victim::Victim;

pub(crate) const SHAPES: &[Shape] = &[
    ("names with control characters", control_characters),
    ("names of a megabyte", long_names),
    ("names that are no UTF-8", no_utf8),
    ("names like paths", like_paths),
    ("names of the system", of_the_system),
    ("names that look alike", look_alikes),
    ("names of indexes that are none", indexes),
    ("deleting what must not be deleted", deleting),
];

fn control_characters(victim: &Victim) {
    for name in ["", "\0", "a\0b", "a\nb", "\u{7f}", "\u{1b}[31m", "a\r\nb: c", "\u{85}"] {
        append(name, Uuid::new_v4(), b"{}").answer(victim.port).is(&[INVALID_ARGUMENT]);
        read_stream(name.as_bytes()).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
    assert!(!victim.log().contains('\u{1b}'), "a name writes no escapes into the log");
}

fn long_names(victim: &Victim) {
    for length in [513, 65_536, 1 << 20, 8 << 20] {
        let name = "x".repeat(length);
        let answer = append(&name, Uuid::new_v4(), b"{}").answer(victim.port);
        answer.is(&[INVALID_ARGUMENT]);
        assert!(answer.fields.len() < 4_096, "it is not sent back: {} bytes", answer.fields.len());
        read_stream(name.as_bytes()).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
    let longest = "y".repeat(512);
    append(&longest, Uuid::new_v4(), b"{}").answer(victim.port).is(&[OK]);
}

fn no_utf8(victim: &Victim) {
    for name in [&b"\xff"[..], b"a\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
        append_to(name, Uuid::new_v4(), b"{}").answer(victim.port).is(&[INVALID_ARGUMENT]);
        read_stream(name).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
}

fn like_paths(victim: &Victim) {
    for name in
        ["..", "../../etc/passwd", "/", "a/../b", "C:\\x", "~", "%2e%2e", "a;rm -rf", "'; drop table", "${jndi:x}"]
    {
        append(name, Uuid::new_v4(), b"{}").answer(victim.port).is(&[OK]);
        read_stream(name.as_bytes()).answer(victim.port).is(&[OK]);
    }
}

fn of_the_system(victim: &Victim) {
    for name in ["$all", "$streams", "$ce-canary", "$et-Alive", "$bc-x", "$idx-all", "$mem-gossip"] {
        append(name, Uuid::new_v4(), b"{}").answer(victim.port).is(&[PERMISSION_DENIED]);
    }
    // Metadata of a stream, of metadata, of nothing.
    for (name, statuses) in [("$$canary-2", &[OK][..]), ("$$$$a", &[OK, INVALID_ARGUMENT, PERMISSION_DENIED])] {
        append(name, Uuid::new_v4(), b"{\"$maxCount\":-9,\"$tb\":1e400,\"$acl\":7}").answer(victim.port).is(statuses);
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    append("$$canary-2", Uuid::new_v4(), nested.as_bytes()).answer(victim.port).is(&[OK]);
    append("$$", Uuid::new_v4(), b"{}").answer(victim.port);
}

fn look_alikes(victim: &Victim) {
    // Cyrillic, combined and composed, right to left, invisible, full width.
    let names = [
        "сanary-1",
        "cafe\u{301}",
        "caf\u{e9}",
        "\u{202e}1-yranac",
        "canary\u{200b}-1",
        "ｃａｎａｒｙ-1",
        "CANARY-1",
        "\u{feff}canary-1",
    ];
    for name in names {
        let answer = read_stream(name.as_bytes()).answer(victim.port);
        answer.is(&[OK]);
        assert!(!answer.body.windows(5).any(|window| window == b"Alive"), "{name} is not another stream");
        append(name, Uuid::new_v4(), b"{}").answer(victim.port).is(&[OK]);
    }
}

fn indexes(victim: &Victim) {
    let long = format!("$ce-{}", "x".repeat(508));
    for name in ["$ce-", "$et-", "$bc-", "$idx-", "$idx-nothing", "$ce-$ce-$ce-a", &long] {
        read_stream(name.as_bytes()).answer(victim.port);
    }
}

fn deleting(victim: &Victim) {
    for name in ["$all", "$$canary-1", "$ce-canary", "$streams", ""] {
        let stream_identifier = Some(StreamIdentifier { stream_name: name.as_bytes().to_vec().into() });
        let any = Some(delete_req::options::ExpectedStreamRevision::Any(Default::default()));
        let options = delete_req::Options { stream_identifier, expected_stream_revision: any };
        let delete = Call::to(DELETE).message(&DeleteReq { options: Some(options.clone()) });
        delete.answer(victim.port).is(&[PERMISSION_DENIED, INVALID_ARGUMENT]);
        let any = Some(tombstone_req::options::ExpectedStreamRevision::Any(Default::default()));
        let options =
            tombstone_req::Options { stream_identifier: options.stream_identifier, expected_stream_revision: any };
        let tombstone = Call::to(TOMBSTONE).message(&TombstoneReq { options: Some(options) });
        tombstone.answer(victim.port).is(&[PERMISSION_DENIED, INVALID_ARGUMENT]);
    }
}
