//! The correlation id in properties that are a protobuf `Struct`.
//!
//! `Struct` is `map<string, Value> fields = 1`, and a map's entry is a message
//! `{ key = 1, value = 2 }`; of `Value` only `string_value = 3` matters here.
//! A hand-written walk over it, because the store decodes nothing else of
//! protobuf. Bytes that are not a `Struct` have no correlation id.

const KEY: &[u8] = b"$correlationId";

/// The value of `$correlationId`, if it is a non-empty string.
pub(crate) fn in_struct(bytes: &[u8]) -> Option<String> {
    let mut found = None;
    for field in Fields(bytes) {
        let (1, entry) = field? else { continue };
        let (mut key, mut value): (&[u8], &[u8]) = (b"", b"");
        for field in Fields(entry) {
            match field? {
                (1, bytes) => key = bytes,
                (2, bytes) => value = bytes,
                _ => {}
            }
        }
        if key == KEY {
            // As protobuf has it: of several entries with one key, the last.
            found = string_value(value)?;
        }
    }
    let id = std::str::from_utf8(found?).ok()?;
    (!id.is_empty()).then(|| id.to_owned())
}

/// The outer option is none for malformed bytes.
fn string_value(value: &[u8]) -> Option<Option<&[u8]>> {
    let mut found = None;
    for field in Fields(value) {
        let (number, bytes) = field?;
        // The last member of a oneof that is set is the one that holds.
        found = (number == 3).then_some(bytes);
    }
    Some(found)
}

/// The fields of a message: number and, where it has a length, the bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    /// None for malformed bytes; nothing follows it.
    type Item = Option<(u64, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, &'a [u8])> {
        let tag = self.varint()?;
        let len = match tag & 7 {
            0 => {
                self.varint()?;
                0
            }
            1 => 8,
            2 => usize::try_from(self.varint()?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some((tag >> 3, bytes))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("short")];
        out.extend_from_slice(bytes);
        out
    }

    fn entry(key: &str, value: &[u8]) -> Vec<u8> {
        field(1, &[field(1, key.as_bytes()), field(2, value)].concat())
    }

    #[test]
    fn a_string_under_the_key_is_the_correlation_id() {
        let number = [0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f];
        let text = field(3, b"order-7");
        let properties = [entry("other", &number), entry("$correlationId", &text)].concat();
        assert_eq!(in_struct(&properties), Some("order-7".into()));
    }

    #[test]
    fn anything_else_is_none() {
        let number = [0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f];
        assert_eq!(in_struct(&entry("$correlationId", &number)), None);
        assert_eq!(in_struct(&entry("$correlationId", &field(3, b""))), None);
        assert_eq!(in_struct(&entry("correlationId", &field(3, b"x"))), None);
        assert_eq!(in_struct(b""), None);
        assert_eq!(in_struct(&entry("$correlationId", &field(3, b"x"))[..10]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_walked_without_a_panic(bytes: Vec<u8>) {
            in_struct(&bytes);
        }
    }
}
