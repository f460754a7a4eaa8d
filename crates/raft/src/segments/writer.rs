//! The end of the log that is written, and what becomes of files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame;
use super::record::{self, Encoded};
use super::{Name, Place, Record, SEGMENT_BYTES, Scan, Segments, Values};

/// A small frame at the end of a file makes it this much longer, filled with zeros:
/// of the syncs of the next ones, which fit, none has to write down where new blocks
/// are.
const GROW_BYTES: usize = 512 * 1024;

/// Larger frames make a file as long as they are: zeros would cost them more.
const SMALL_BYTES: usize = 64 * 1024;

/// Files of no use that are kept to be written again.
const SPARES: usize = 4;

/// The one who writes. Whoever has a writer of a directory must be the only one.
#[derive(Debug)]
pub(crate) struct Writer {
    directory: PathBuf,
    segments: Arc<Segments>,
    values: Values,
    current: Option<Current>,
    /// Files of no use, in order. They are read at the next opening, so that only
    /// the first may go.
    spares: Vec<(Name, Arc<File>)>,
    next_segment: u64,
    next_frame: u64,
    /// The frame that is written.
    buffer: Vec<u8>,
}

/// The file that is written.
#[derive(Debug)]
struct Current {
    name: Name,
    file: Arc<File>,
    /// Where the next frame goes.
    offset: u64,
    /// The file's length.
    len: u64,
}

impl Current {
    /// Makes the file longer. In blocks: the page cache keeps what is written at once
    /// as one page, and some kernels write all of such a page when a block of it
    /// changes.
    fn grow(&mut self) -> io::Result<()> {
        for _ in 0..GROW_BYTES / frame::BLOCK {
            self.file.write_all_at(&[0; frame::BLOCK], self.len)?;
            self.len += frame::BLOCK as u64;
        }
        Ok(())
    }
}

impl Writer {
    /// Goes on where a scan of this directory ended. What the scan found to be of no
    /// use is removed.
    pub(crate) fn open(directory: &Path, scan: Scan) -> io::Result<Writer> {
        let Scan { values, index, files, leftovers, offset, next_frame, .. } = scan;
        for leftover in &leftovers {
            fs::remove_file(leftover)?;
        }
        let segments = Segments::open(&files, index, OpenOptions::new().read(true).write(true))?;
        let newest = segments.files.lock().last_key_value().map(|(_, newest)| newest.clone());
        let current = match newest {
            Some((name, file)) => Some(Current { name, len: file.metadata()?.len(), file, offset }),
            None => None,
        };
        let next_segment = current.as_ref().map_or(1, |current| current.name.number + 1);
        File::open(directory)?.sync_all()?;
        let mut writer = Writer {
            directory: directory.to_owned(),
            segments: Arc::new(segments),
            values,
            current,
            spares: Vec::new(),
            next_segment,
            next_frame,
            buffer: Vec::new(),
        };
        writer.retire()?;
        Ok(writer)
    }

    /// Whence to read.
    pub(crate) fn segments(&self) -> Arc<Segments> {
        self.segments.clone()
    }

    /// Writes these records as one frame. They are durable on return if `sync`, and
    /// their entries can be read.
    ///
    /// After an error nothing is known of what is on the disk: the process must end.
    pub(crate) fn write(&mut self, records: &[Record], sync: bool) -> io::Result<()> {
        let mut encoded: Vec<Encoded> = records.iter().map(Record::encode).collect();
        let len = frame::len(frame::body_len(&encoded)) as u64;
        if self.current.as_ref().is_none_or(|current| current.offset > 0 && current.offset + len > SEGMENT_BYTES) {
            self.begin_segment()?;
        }
        let Some(current) = &mut self.current else { unreachable!("there is one, or one was begun") };
        let values = if current.offset == 0 { self.values.records() } else { Vec::new() };
        encoded.splice(0..0, values.iter().map(Record::encode));
        frame::encode(&mut self.buffer, &current.name.salt, self.next_frame, &encoded);
        let end = current.offset + self.buffer.len() as u64;
        current.file.write_all_at(&self.buffer, current.offset)?;
        if end > current.len {
            current.len = end;
            if self.buffer.len() < SMALL_BYTES {
                current.grow()?;
            }
        }
        if sync {
            current.file.sync_data()?;
        }

        let mut at = current.offset as usize + frame::front(frame::body_len(&encoded));
        let mut drops = false;
        {
            let mut index = self.segments.index.lock();
            for (encoded, record) in encoded.iter().zip(values.iter().chain(records)) {
                match encoded.entry {
                    Some(entry) => {
                        let offset = at + record::HEADER;
                        index.push(entry, Place::new(current.name.number, offset, encoded.payload.len()));
                    }
                    None => index.follow(record),
                }
                drops |= matches!(record, Record::Truncated(..) | Record::Purged(_) | Record::Emptied(_));
                at += encoded.len();
            }
        }
        records.iter().for_each(|record| self.values.follow(record));
        current.offset = end;
        self.next_frame += 1;
        if drops { self.retire() } else { Ok(()) }
    }

    /// Makes the next file the current one: one of no use, or a new one.
    fn begin_segment(&mut self) -> io::Result<()> {
        let name = Name::new(self.next_segment);
        let path = self.directory.join(name.to_string());
        let file = match self.take_spare() {
            Some((old, file)) => {
                fs::rename(self.directory.join(old.to_string()), &path)?;
                // See `Current::grow`. What is not dropped only costs.
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                file
            }
            None => Arc::new(OpenOptions::new().read(true).write(true).create_new(true).open(&path)?),
        };
        // Before anything in it is acknowledged, its name must be on the disk.
        File::open(&self.directory)?.sync_all()?;
        self.next_segment += 1;
        self.segments.files.lock().insert(name.number, (name, file.clone()));
        let len = file.metadata()?.len();
        self.current = Some(Current { name, file, offset: 0, len });
        Ok(())
    }

    /// The first file of no use, unless somebody still reads from it.
    fn take_spare(&mut self) -> Option<(Name, Arc<File>)> {
        let (_, file) = self.spares.first()?;
        (Arc::strong_count(file) == 1).then(|| self.spares.remove(0))
    }

    /// Finds out which files are of no use any more, and removes all but a few.
    fn retire(&mut self) -> io::Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let needed = self.segments.index.lock().places.front().map_or(current.name.number, |place| place.segment);
        let mut files = self.segments.files.lock();
        while let Some(entry) = files.first_entry().filter(|entry| *entry.key() < needed) {
            self.spares.push(entry.remove());
        }
        drop(files);
        while self.spares.len() > SPARES {
            let (name, _) = self.spares.remove(0);
            fs::remove_file(self.directory.join(name.to_string()))?;
        }
        Ok(())
    }
}
