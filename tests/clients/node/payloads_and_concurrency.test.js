"use strict";
// Payloads up to the limit of a message, and many writers at once (1.0, 2.4).

const assert = require("node:assert/strict");
const { createHash, randomBytes } = require("node:crypto");
const { after, test } = require("node:test");
const {
  BACKWARDS,
  END,
  KurrentDBClient,
  NO_STREAM,
  WrongExpectedVersionError,
  binaryEvent,
} = require("@kurrent/kurrentdb-client");
const {
  ANY,
  MESSAGE_MAX,
  connect,
  event,
  events,
  fresh,
  ids,
  range,
  read,
  refusal,
  revisions,
  url,
  versionOf,
} = require("./support");

const client = connect();
const RESOURCE_EXHAUSTED = 8;
const ENVELOPE = 1_000; // what a message carries besides the data, rounded up
const blob = (size) => binaryEvent({ type: "Blob", data: randomBytes(size) });
const hash = (data) => createHash("sha256").update(data).digest("hex");

test("every byte value and no bytes at all survive", async () => {
  const stream = fresh();
  const every = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  await client.appendToStream(stream, [
    binaryEvent({ type: "Every", data: every }),
    binaryEvent({ type: "None", data: Buffer.alloc(0) }),
  ]);
  const [a, b] = await read(client, stream);
  assert.deepEqual(Buffer.from(a.event.data), every);
  assert.equal(b.event.data.length, 0);
  assert.equal(b.event.metadata, undefined);
});

test("an event just below the message limit is stored and read back", async () => {
  const [stream, e] = [fresh(), blob(MESSAGE_MAX - ENVELOPE)];
  await client.appendToStream(stream, e, { streamState: NO_STREAM });
  const [stored] = await read(client, stream);
  assert.equal(hash(stored.event.data), hash(e.data));
});

test("an event above the message limit is refused and the client stays usable", async () => {
  const stream = fresh();
  const error = await refusal(() => client.appendToStream(stream, blob(MESSAGE_MAX + 1), { streamState: NO_STREAM }));
  assert.equal(error.code, RESOURCE_EXHAUSTED, `got ${error}`);
  assert.equal(await versionOf(client, stream), NO_STREAM);
  const small = event();
  await client.appendToStream(stream, small, { streamState: NO_STREAM });
  assert.deepEqual(ids(await read(client, stream)), [small.id]);
});

test("one append may be larger than one message", async () => {
  // The client splits it into several messages of one correlation; the server joins them.
  const [stream, batch] = [fresh(), Array.from({ length: 12 }, () => blob(2_000_000))];
  const result = await client.appendToStream(stream, batch, { streamState: NO_STREAM });
  assert.equal(result.nextExpectedRevision, 11n);
  assert.deepEqual((await read(client, stream)).map((e) => hash(e.event.data)), batch.map((e) => hash(e.data)));
});

test("an event larger than 4 MiB can be written as a record", async () => {
  const [stream, e] = [fresh(), blob(6_000_000)];
  await client.appendRecords([{ streamName: stream, record: e }]);
  assert.equal(hash((await read(client, stream))[0].event.data), hash(e.data));
});

const WRITERS = 16;

function writers(run) {
  const clients = Array.from({ length: WRITERS }, () => KurrentDBClient.connectionString(url));
  after(() => Promise.all(clients.map((c) => c.dispose())));
  return Promise.all(clients.map(run));
}

test("sixteen writers with exact expectations leave a dense stream", async () => {
  const [stream, each] = [fresh(), 5];
  const written = await writers(async (c) => {
    const mine = [];
    let expected = NO_STREAM;
    while (mine.length < each) {
      const e = event();
      try {
        expected = (await c.appendToStream(stream, e, { streamState: expected })).nextExpectedRevision;
        mine.push(e.id);
      } catch (error) {
        if (!(error instanceof WrongExpectedVersionError)) throw error;
        expected = error.actualState; // somebody was faster: try behind them
      }
    }
    return mine;
  });
  const stored = await read(client, stream);
  assert.deepEqual(revisions(stored), range(0, WRITERS * each));
  assert.deepEqual(ids(stored).sort(), written.flat().sort());
  for (const mine of written) assert.deepEqual(ids(stored).filter((id) => mine.includes(id)), mine);
});

test("hundreds of appends in flight over one connection are each answered once", async () => {
  const streams = Array.from({ length: 20 }, () => fresh());
  const answers = await Promise.all(
    Array.from({ length: 400 }, (_, n) => client.appendToStream(streams[n % 20], event(), { streamState: ANY }))
  );
  assert.equal(new Set(answers.map((a) => a.position.commit)).size, 400);
  for (const stream of streams) assert.deepEqual(revisions(await read(client, stream)), range(0, 20));
});

test("refusals and successes in flight together reach the right caller", async () => {
  const stream = fresh();
  await client.appendToStream(stream, events(3), { streamState: NO_STREAM });
  const results = await Promise.allSettled(
    Array.from({ length: 100 }, (_, n) =>
      client.appendToStream(n % 2 ? stream : fresh(), event(), { streamState: n % 2 ? 1n : NO_STREAM })
    )
  );
  results.forEach((result, n) => {
    assert.equal(result.status, n % 2 ? "rejected" : "fulfilled");
    if (n % 2) assert.deepEqual([result.reason.streamName, result.reason.actualState], [stream, 2n]);
  });
  const [last] = await read(client, stream, { direction: BACKWARDS, fromRevision: END, maxCount: 1 });
  assert.equal(last.event.revision, 2n);
});
