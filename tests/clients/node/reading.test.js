"use strict";
// Counted reads of a stream and of $all, in both directions, with filters (3.2, 3.6, 3.7).
//
// Where this client starts decides its direction: "from the end" reads backwards and
// "from the start" forwards, whatever is asked, so those two cells stay untested here.

const assert = require("node:assert/strict");
const { before, describe, test } = require("node:test");
const {
  BACKWARDS,
  END,
  NO_STREAM,
  StreamNotFoundError,
  binaryEvent,
  eventTypeFilter,
  excludeSystemEvents,
  streamNameFilter,
} = require("@kurrent/kurrentdb-client");
const {
  ANY,
  collect,
  connect,
  endOfAll,
  event,
  events,
  fresh,
  freshWord,
  ids,
  makeLive,
  makeSoftDeleted,
  range,
  read,
  refusal,
  revisions,
} = require("./support");

const client = connect();
const COUNT = 100;

describe("a stream", () => {
  let stream;
  before(async () => (stream = await makeLive(client, COUNT)));

  test("reads whole in both directions", async () => {
    assert.deepEqual(revisions(await read(client, stream)), range(0, COUNT));
    assert.deepEqual(
      revisions(await read(client, stream, { direction: BACKWARDS, fromRevision: END })),
      range(0, COUNT).reverse()
    );
  });

  for (const maxCount of [1, 31, 32, 33, COUNT, COUNT + 1]) {
    test(`keeps a limit of ${maxCount} in both directions`, async () => {
      const all = range(0, COUNT);
      assert.deepEqual(revisions(await read(client, stream, { maxCount })), all.slice(0, maxCount));
      const backwards = await read(client, stream, { maxCount, direction: BACKWARDS, fromRevision: END });
      assert.deepEqual(revisions(backwards), all.reverse().slice(0, maxCount));
    });
  }

  for (const from of [0, 1, 50, COUNT - 1]) {
    test(`reads from revision ${from} on, including it`, async () => {
      const fromRevision = BigInt(from);
      assert.deepEqual(revisions(await read(client, stream, { fromRevision })), range(from, COUNT));
      assert.deepEqual(
        revisions(await read(client, stream, { fromRevision, direction: BACKWARDS })),
        range(0, from + 1).reverse()
      );
    });
  }

  test("reads nothing beyond its end", async () => {
    for (const fromRevision of [BigInt(COUNT), BigInt(COUNT + 1000)]) {
      assert.deepEqual(await read(client, stream, { fromRevision }), []);
    }
  });

  test("can be abandoned midway without harm", async () => {
    for await (const e of client.readStream(stream)) {
      assert.equal(e.event.revision, 0n);
      break;
    }
    assert.equal((await read(client, stream)).length, COUNT);
  });
});

test("a missing and a soft-deleted stream are not found in either direction", async () => {
  for (const stream of [fresh(), await makeSoftDeleted(client)]) {
    for (const options of [{}, { direction: BACKWARDS, fromRevision: END }, { fromRevision: 7n }]) {
      const error = await refusal(() => read(client, stream, options), StreamNotFoundError);
      assert.equal(error.streamName, stream);
    }
  }
});

test("an event comes back as it was written", async () => {
  const stream = fresh();
  const json = event("Größe geändert", { ä: ["ö", 1.5, null] }, { metadata: { by: "test" } });
  const binary = binaryEvent({
    type: "Imaged",
    data: Buffer.from(Array.from({ length: 256 }, (_, n) => n)),
    metadata: Buffer.from([0, 255]),
  });
  await client.appendToStream(stream, [json, binary], { streamState: NO_STREAM });
  const [a, b] = (await read(client, stream)).map((e) => e.event);
  assert.deepEqual(
    [a.id, a.type, a.data, a.metadata, a.isJson, a.streamId],
    [json.id, json.type, json.data, json.metadata, true, stream]
  );
  assert.deepEqual([b.id, b.type, b.isJson], [binary.id, "Imaged", false]);
  assert.deepEqual(Buffer.from(b.data), Buffer.from(binary.data));
  assert.deepEqual([...b.metadata], [0, 255]);
  assert.ok(Math.abs(Date.now() - a.created.getTime()) < 5 * 60_000);
  assert.ok(a.position.commit === a.position.prepare && b.position.commit > a.position.commit);
});

test("what was appended is read at once", async () => {
  const stream = fresh();
  for (let revision = 0n; revision < 30n; revision++) {
    const e = event();
    await client.appendToStream(stream, e);
    const [last] = await read(client, stream, { direction: BACKWARDS, fromRevision: END, maxCount: 1 });
    assert.deepEqual([last.event.id, last.event.revision], [e.id, revision]);
  }
});

describe("$all", () => {
  const word = freshWord();
  const written = [];
  let from;
  before(async () => {
    from = await endOfAll(client);
    for (let n = 0; n < 60; n++) {
      const e = event(`${word}Type${n % 3}`, { n });
      await client.appendToStream(`${word}${"ab"[n % 2]}-1`, e);
      written.push({ id: e.id, type: e.type, n });
    }
  });
  const all = (options) => collect(client.readAll({ fromPosition: from, ...options }));
  const backwards = (options) => collect(client.readAll({ fromPosition: END, direction: BACKWARDS, ...options }));
  const wanted = (keep = () => true) => written.filter(keep).map((e) => e.id);

  test("reads in the order of positions, forwards and backwards", async () => {
    const seen = await all({ filter: streamNameFilter({ prefixes: [word] }) });
    assert.deepEqual(ids(seen), wanted());
    const commits = seen.map((e) => e.event.position.commit);
    assert.deepEqual(commits, [...new Set(commits)].sort((a, b) => (a < b ? -1 : 1)));
    const back = await backwards({ filter: streamNameFilter({ prefixes: [word] }), maxCount: 60 });
    assert.deepEqual(ids(back), wanted().reverse());
  });

  test("includes its position forwards and excludes it backwards", async () => {
    const seen = await all({ filter: streamNameFilter({ prefixes: [word] }) });
    const middle = seen[30].event.position;
    const [next] = await collect(client.readAll({ fromPosition: middle, maxCount: 1 }));
    assert.equal(next.event.id, written[30].id);
    const [previous] = await collect(client.readAll({ fromPosition: middle, direction: BACKWARDS, maxCount: 1 }));
    assert.ok(previous.event.position.commit < middle.commit);
  });

  test("filters on types by regex and by prefix", async () => {
    const byRegex = await all({ filter: eventTypeFilter({ regex: `^${word}Type[02]$` }) });
    assert.deepEqual(ids(byRegex), wanted((e) => !e.type.endsWith("1")));
    const unanchored = await all({ filter: eventTypeFilter({ regex: `${word.slice(4)}Type1` }) });
    assert.deepEqual(ids(unanchored), wanted((e) => e.type.endsWith("1")));
    const byPrefix = await all({ filter: eventTypeFilter({ prefixes: ["Nothing", `${word}Type1`] }) });
    assert.deepEqual(ids(byPrefix), wanted((e) => e.type.endsWith("1")));
  });

  test("filters on stream names by regex and by prefix", async () => {
    const byRegex = await all({ filter: streamNameFilter({ regex: `^${word}b-\\d$` }) });
    assert.deepEqual(ids(byRegex), wanted((e) => e.n % 2 === 1));
    const byPrefix = await all({ filter: streamNameFilter({ prefixes: [`${word}a`] }) });
    assert.deepEqual(ids(byPrefix), wanted((e) => e.n % 2 === 0));
  });

  test("understands look-ahead", async () => {
    const filter = eventTypeFilter({ regex: `^(?!(\\$.+$|.*Type2$))${word}` });
    assert.deepEqual(ids(await all({ filter })), wanted((e) => !e.type.endsWith("2")));
  });

  test("stops a filtered read after its limit of matches", async () => {
    const filter = eventTypeFilter({ prefixes: [`${word}Type0`] });
    const type0 = wanted((e) => e.type.endsWith("0"));
    assert.deepEqual(ids(await all({ filter, maxCount: 7 })), type0.slice(0, 7));
    assert.deepEqual(ids(await backwards({ filter, maxCount: 7 })), type0.reverse().slice(0, 7));
  });

  test("hides system events from those who exclude them", async () => {
    const stream = await makeLive(client, 1);
    await client.setStreamMetadata(stream, { a: 1 });
    const seen = await all({ filter: excludeSystemEvents() });
    assert.ok(seen.every((e) => !e.event.type.startsWith("$")));
    const everything = await all();
    assert.ok(everything.some((e) => e.event.streamId === `$$${stream}` && e.event.type === "$metadata"));
  });

  test("is empty for a filter that matches nothing", async () => {
    assert.deepEqual(await all({ filter: eventTypeFilter({ prefixes: [freshWord()] }) }), []);
  });
});

test("metadata hides: $maxCount, $tb, $maxAge, and the stricter of them", async () => {
  const stream = await makeLive(client, 20);
  await client.setStreamMetadata(stream, { maxCount: 5 });
  assert.deepEqual(revisions(await read(client, stream)), range(15, 20));
  assert.deepEqual(revisions(await read(client, stream, { fromRevision: 3n, maxCount: 2 })), range(15, 17));
  await client.setStreamMetadata(stream, { truncateBefore: 18 });
  assert.deepEqual(revisions(await read(client, stream, { direction: BACKWARDS, fromRevision: END })), [19n, 18n]);
  await client.setStreamMetadata(stream, { truncateBefore: 18, maxCount: 1 });
  assert.deepEqual(revisions(await read(client, stream)), [19n]);
  await client.setStreamMetadata(stream, { truncateBefore: 30 });
  assert.deepEqual(await read(client, stream), [], "beyond the end: empty, not missing");
  await client.setStreamMetadata(stream, { maxAge: 3600 });
  assert.equal((await read(client, stream)).length, 20);
});

test("metadata is kept with acl and custom keys, and replaced as a whole", async () => {
  const stream = await makeLive(client, 1);
  const metadata = {
    maxCount: 10,
    maxAge: 3600,
    cacheControl: 15,
    acl: { readRoles: ["$all"], writeRoles: ["admin", "ops"] },
    größe: { nested: [1, "zwei"] },
  };
  await client.setStreamMetadata(stream, metadata, { expectedRevision: NO_STREAM });
  assert.deepEqual((await client.getStreamMetadata(stream)).metadata, metadata);
  await client.setStreamMetadata(stream, { custom: true });
  assert.deepEqual((await client.getStreamMetadata(stream)).metadata, { custom: true });
  assert.equal((await client.getStreamMetadata(fresh())).metadata, undefined);
});
