//! For the fuzz targets alone: files of the log that anything may be in.

use bytes::Bytes;

use super::Name;
use super::frame::{self, Header};
use super::record::{self, Record};
use super::scan::{Next, Scan};
use crate::codec;
use crate::types::Entry;

const SALT: frame::Salt = [0; 16];

/// Takes the bytes for a file, and for the body of an intact frame.
pub(crate) fn look(bytes: &[u8]) -> String {
    let file = match Header::read(bytes, &SALT) {
        Some(header) => {
            let body = bytes.get(header.body()).filter(|_| header.has_intact_body(bytes));
            format!("{:?}", body.map(carry_out))
        }
        None => "no frame".to_owned(),
    };
    let end = frame::judge(bytes, 0, &SALT, 0);
    format!("{file}, {end:?}, as a body {}", carry_out(bytes))
}

fn carry_out(body: &[u8]) -> String {
    let body = Bytes::copy_from_slice(body);
    let mut rest = body.clone();
    let mut records = 0;
    while let Ok(record) = record::take(&mut rest) {
        if let Record::Entry(entry) = &record
            && codec::entry_log_id(entry).is_err()
        {
            break;
        }
        let encoded = record.encode();
        let mut again = Vec::new();
        encoded.put(&mut again);
        let again = record::take(&mut Bytes::from(again)).expect("as it was encoded");
        assert_eq!(again, record);
        records += 1;
        if rest.is_empty() {
            break;
        }
    }
    let mut scan = Scan::default();
    let told = scan.carry_out(body, 0, &Name { number: 1, salt: SALT }, &mut Next::default());
    let _ = (scan.first(), scan.last());
    format!("{} {:?}", records.min(4), told.err())
}

/// A frame, and the body of one.
pub(crate) fn samples(entry: &Entry) -> Vec<Vec<u8>> {
    let entry = codec::encode_entry(entry);
    let log_id = codec::entry_log_id(&entry).expect("just encoded");
    let records = [Record::Purged(log_id), Record::Entry(entry), Record::Committed(log_id), Record::End(log_id)];
    let encoded: Vec<_> = records.iter().map(Record::encode).collect();
    let mut file = Vec::new();
    frame::encode(&mut file, &SALT, 0, &encoded);
    let mut body = Vec::new();
    encoded.iter().for_each(|record| record.put(&mut body));
    vec![file, body]
}
