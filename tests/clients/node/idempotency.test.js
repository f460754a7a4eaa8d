"use strict";
// The same event ids again: answered as the first time, never written twice (2.2).

const assert = require("node:assert/strict");
const { test } = require("node:test");
const {
  AppendConsistencyViolationError,
  NO_STREAM,
  STREAM_EXISTS,
  STREAM_STATE,
  WrongExpectedVersionError,
} = require("@kurrent/kurrentdb-client");
const { ANY, connect, event, events, fresh, ids, makeLive, read, refusal, versionOf } = require("./support");

const client = connect();
const append = (stream, batch, streamState) => client.appendToStream(stream, batch, { streamState });
const check = (streamName, expectedState) => ({ type: STREAM_STATE, streamName, expectedState });

for (const [name, state] of [["any state", ANY], ["an existing stream", STREAM_EXISTS]]) {
  test(`a retry expecting ${name} is answered as the first time`, async () => {
    const stream = await makeLive(client, 2);
    const batch = events(4);
    const first = await append(stream, batch, state);
    await append(stream, events(3), ANY);
    assert.deepEqual(await append(stream, batch, state), first);
    assert.equal((await read(client, stream)).length, 9);
  });

  test(`a partly written append expecting ${name} is refused`, async () => {
    const stream = await makeLive(client, 1);
    const batch = events(2);
    await append(stream, batch, state);
    await refusal(() => append(stream, [...batch, event()], state), WrongExpectedVersionError);
    assert.equal((await read(client, stream)).length, 3);
  });
}

test("an unknown id in front makes it a new append", async () => {
  const [stream, known, unknown] = [fresh(), event(), event()];
  await append(stream, known, ANY);
  await append(stream, [unknown, known], ANY);
  assert.deepEqual(ids(await read(client, stream)), [known.id, unknown.id, known.id]);
});

test("the same id on another stream is another event", async () => {
  const [one, two, e] = [fresh(), fresh(), event()];
  await append(one, e, ANY);
  await append(two, e, ANY);
  assert.deepEqual(ids(await read(client, two)), [e.id]);
});

test("many retries at once write one event", async () => {
  const [stream, e] = [fresh(), event()];
  const answers = await Promise.all(Array.from({ length: 32 }, () => append(stream, e, ANY)));
  assert.equal(new Set(answers.map((a) => a.position.commit)).size, 1);
  assert.deepEqual(ids(await read(client, stream)), [e.id]);
});

for (const [name, state, before] of [["no stream", NO_STREAM, 0], ["a revision", 2n, 3]]) {
  test(`a retry expecting ${name} is answered as the first time, for ever`, async () => {
    const stream = before ? await makeLive(client, before) : fresh();
    const batch = events(4);
    const first = await append(stream, batch, state);
    assert.equal(first.nextExpectedRevision, BigInt(before + 3));
    await append(stream, events(20), ANY);
    assert.deepEqual(await append(stream, batch, state), first);
    const beginning = await append(stream, batch.slice(0, 2), state);
    assert.equal(beginning.nextExpectedRevision, BigInt(before + 1));
    assert.equal((await read(client, stream)).length, before + 24);
  });

  test(`a partial overlap expecting ${name} is refused`, async () => {
    const stream = before ? await makeLive(client, before) : fresh();
    const batch = events(3);
    await append(stream, batch, state);
    for (const request of [[...batch, event()], [batch[0], event()], [event(), batch[1]], [batch[1]]]) {
      const error = await refusal(() => append(stream, request, state), WrongExpectedVersionError);
      assert.equal(error.actualState, BigInt(before + 2));
    }
    assert.equal((await read(client, stream)).length, before + 3);
  });
}

test("a session written before is answered as the first time", async () => {
  const [one, two] = [fresh(), fresh()];
  const request = [
    { streamName: one, events: events(2), expectedState: NO_STREAM },
    { streamName: two, events: events(3), expectedState: ANY },
  ];
  const first = await client.multiStreamAppend(request);
  await append(one, event(), ANY);
  assert.deepEqual(await client.multiStreamAppend(request), first);
  assert.equal((await read(client, one)).length, 3);
  assert.equal((await read(client, two)).length, 3);
});

test("a session half of which was written is refused", async () => {
  const [one, two] = [fresh(), fresh()];
  const known = events(2);
  await append(one, known, NO_STREAM);
  const request = [
    { streamName: one, events: known, expectedState: NO_STREAM },
    { streamName: two, events: events(1), expectedState: NO_STREAM },
  ];
  await refusal(() => client.multiStreamAppend(request), WrongExpectedVersionError);
  assert.equal(await versionOf(client, two), NO_STREAM);
});

test("records written before are answered as the first time, whatever became of checked streams", async () => {
  const [one, two, checked] = [fresh(), fresh(), await makeLive(client, 1)];
  const records = [
    { streamName: one, record: event() },
    { streamName: two, record: event() },
    { streamName: one, record: event() },
  ];
  const checks = [check(one, NO_STREAM), check(two, NO_STREAM), check(checked, 0n)];
  const first = await client.appendRecords(records, checks);
  assert.deepEqual(first.responses, [{ streamName: one, revision: 1n }, { streamName: two, revision: 0n }]);
  await append(checked, event(), ANY);
  assert.deepEqual(await client.appendRecords(records, checks), first);
  assert.equal((await read(client, one)).length, 2);
});

test("new and known records together are refused, naming the known stream", async () => {
  const [one, two] = [fresh(), fresh()];
  const known = { streamName: one, record: event() };
  await client.appendRecords([known], [check(one, NO_STREAM)]);
  const error = await refusal(
    () =>
      client.appendRecords(
        [known, { streamName: two, record: event() }],
        [check(one, NO_STREAM), check(two, NO_STREAM)]
      ),
    AppendConsistencyViolationError
  );
  assert.ok(error.violations.some((v) => v.streamName === one && v.actualState === 0n));
  assert.equal(await versionOf(client, two), NO_STREAM);
});
