"use strict";
// One append over several streams: entirely or not at all (2.9).

const assert = require("node:assert/strict");
const { test } = require("node:test");
const {
  AppendConsistencyViolationError,
  NO_STREAM,
  STREAM_EXISTS,
  STREAM_STATE,
  StreamTombstonedError,
  WrongExpectedVersionError,
  binaryEvent,
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
  makeTombstoned,
  read,
  refusal,
  versionOf,
} = require("./support");

const client = connect();
const check = (streamName, expectedState) => ({ type: STREAM_STATE, streamName, expectedState });

test("a session writes every stream and answers in the order of the request", async () => {
  const [one, two, three] = [fresh(), await makeLive(client, 2), fresh()];
  const result = await client.multiStreamAppend([
    { streamName: one, events: events(2), expectedState: NO_STREAM },
    { streamName: two, events: events(1), expectedState: 1n },
    { streamName: three, events: events(3), expectedState: ANY },
  ]);
  assert.deepEqual(result.responses, [
    { streamName: one, revision: 1n },
    { streamName: two, revision: 2n },
    { streamName: three, revision: 2n },
  ]);
  assert.equal(result.position, (await read(client, three)).at(-1).event.position.commit);
});

test("a session with one conflict or one tombstone writes nothing", async () => {
  const [one, two, dead] = [fresh(), await makeLive(client, 2), await makeTombstoned(client)];
  const conflict = await refusal(
    () =>
      client.multiStreamAppend([
        { streamName: one, events: events(2), expectedState: NO_STREAM },
        { streamName: two, events: events(1), expectedState: 0n },
      ]),
    WrongExpectedVersionError
  );
  assert.deepEqual([conflict.streamName, conflict.expectedState, conflict.actualState], [two, 0n, 1n]);
  const tombstoned = await refusal(
    () =>
      client.multiStreamAppend([
        { streamName: one, events: events(1), expectedState: ANY },
        { streamName: dead, events: events(1), expectedState: ANY },
      ]),
    StreamTombstonedError
  );
  assert.equal(tombstoned.stream, dead);
  assert.equal(await versionOf(client, one), NO_STREAM);
  assert.equal(await versionOf(client, two), 1n);
});

test("a session naming a stream twice, or nothing at all, is refused", async () => {
  const stream = fresh();
  const one = { streamName: stream, events: events(1), expectedState: ANY };
  await refusal(() => client.multiStreamAppend([one, { ...one, events: events(1) }]));
  await refusal(() => client.multiStreamAppend([]));
  await refusal(() => client.multiStreamAppend([{ ...one, events: [] }]));
  await refusal(() => client.appendRecords([]));
  assert.equal(await versionOf(client, stream), NO_STREAM);
});

test("records keep the order of the request over streams", async () => {
  const from = await endOfAll(client);
  const word = freshWord();
  const streams = [`${word}-a`, `${word}-b`];
  const records = Array.from({ length: 6 }, (_, n) => ({ streamName: streams[n % 2], record: event() }));
  const result = await client.appendRecords(records);
  assert.deepEqual(result.responses, streams.map((streamName) => ({ streamName, revision: 2n })));
  const stored = await collect(
    client.readAll({ fromPosition: from, filter: streamNameFilter({ prefixes: [word] }) })
  );
  assert.deepEqual(ids(stored), records.map((r) => r.record.id));
  assert.equal(result.position, stored.at(-1).event.position.commit);
});

test("all failed checks are told with their place in the list", async () => {
  const [target, live, missing] = [fresh(), await makeLive(client, 2), fresh()];
  const error = await refusal(
    () =>
      client.appendRecords(
        [{ streamName: target, record: event() }],
        [check(target, NO_STREAM), check(live, 0n), check(missing, STREAM_EXISTS)]
      ),
    AppendConsistencyViolationError
  );
  assert.deepEqual(error.violations.sort((a, b) => a.checkIndex - b.checkIndex), [
    { checkIndex: 1, streamName: live, expectedState: 0n, actualState: 1n },
    { checkIndex: 2, streamName: missing, expectedState: STREAM_EXISTS, actualState: NO_STREAM },
  ]);
  assert.equal(await versionOf(client, target), NO_STREAM);
});

test("a stream checked twice, or for any state, is refused", async () => {
  const stream = fresh();
  const record = { streamName: stream, record: event() };
  for (const checks of [[check(stream, NO_STREAM), check(stream, NO_STREAM)], [check(stream, ANY)]]) {
    const error = await refusal(() => client.appendRecords([record], checks));
    assert.ok(!(error instanceof AppendConsistencyViolationError));
  }
  assert.equal(await versionOf(client, stream), NO_STREAM);
});

test("properties of a record are read back as JSON metadata", async () => {
  const [stream, type] = [fresh(), freshWord()];
  await client.appendRecords([
    { streamName: stream, record: event(type, { a: 1 }, { metadata: { who: "é" } }) },
    { streamName: stream, record: binaryEvent({ type, data: Buffer.from([0, 255]) }) },
  ]);
  const [json, bytes] = await read(client, stream);
  assert.deepEqual(json.event.data, { a: 1 });
  assert.deepEqual(json.event.metadata, { who: "é", "$schema.name": type, "$schema.format": "Json" });
  assert.deepEqual([...bytes.event.data], [0, 255]);
  assert.equal(bytes.event.isJson, false);
  assert.deepEqual(bytes.event.metadata, { "$schema.name": type, "$schema.format": "Bytes" });
});
