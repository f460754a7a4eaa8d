"use strict";
// Every expected state against every state of a stream, through the three ways this
// client appends. The table is the contract's (2.1).

const assert = require("node:assert/strict");
const { test, describe } = require("node:test");
const {
  AppendConsistencyViolationError,
  BACKWARDS,
  END,
  NO_STREAM,
  STREAM_EXISTS,
  STREAM_STATE,
  StreamDeletedError,
  StreamTombstonedError,
  WrongExpectedVersionError,
} = require("@kurrent/kurrentdb-client");
const {
  ANY,
  connect,
  event,
  events,
  fresh,
  ids,
  makeLive,
  makeMetadataOnly,
  makeSoftDeleted,
  makeTombstoned,
  range,
  read,
  refusal,
  revisions,
  versionOf,
} = require("./support");

const client = connect();
const LAST = 2n;

const STATES = {
  "a stream that never existed": async () => fresh(),
  "a stream with metadata only": () => makeMetadataOnly(client),
  "a live stream": () => makeLive(client, 3),
  "a soft-deleted stream": () => makeSoftDeleted(client, 3),
  "a tombstoned stream": () => makeTombstoned(client, 3),
};

const EXPECTED = {
  "its last revision": LAST,
  "an earlier revision": LAST - 1n,
  "a later revision": LAST + 7n,
  "no stream": NO_STREAM,
  "any state": ANY,
  "an existing stream": STREAM_EXISTS,
};

const written = (revision) => ({ written: revision });
const conflict = (actual) => ({ conflict: actual });
const deleted = (actual) => ({ deleted: actual });

const TABLE = {
  "a stream that never existed": {
    "its last revision": conflict(NO_STREAM),
    "an earlier revision": conflict(NO_STREAM),
    "a later revision": conflict(NO_STREAM),
    "no stream": written(0n),
    "any state": written(0n),
    "an existing stream": conflict(NO_STREAM),
  },
  "a stream with metadata only": {
    "its last revision": conflict(NO_STREAM),
    "an earlier revision": conflict(NO_STREAM),
    "a later revision": conflict(NO_STREAM),
    "no stream": written(0n),
    "any state": written(0n),
    "an existing stream": written(0n),
  },
  "a live stream": {
    "its last revision": written(LAST + 1n),
    "an earlier revision": conflict(LAST),
    "a later revision": conflict(LAST),
    "no stream": conflict(LAST),
    "any state": written(LAST + 1n),
    "an existing stream": written(LAST + 1n),
  },
  "a soft-deleted stream": {
    "its last revision": written(LAST + 1n),
    "an earlier revision": conflict(LAST),
    "a later revision": conflict(LAST),
    "no stream": written(LAST + 1n),
    "any state": written(LAST + 1n),
    "an existing stream": deleted(-5n),
  },
  "a tombstoned stream": Object.fromEntries(Object.keys(EXPECTED).map((name) => [name, deleted(-6n)])),
};

const check = (streamName, expectedState) => ({ type: STREAM_STATE, streamName, expectedState });

const WAYS = {
  appendToStream: async (stream, e, state) => {
    const result = await client.appendToStream(stream, e, { streamState: state });
    assert.equal(result.success, true);
    assert.equal(result.position.commit, result.position.prepare);
    return { revision: result.nextExpectedRevision, position: result.position.commit };
  },
  multiStreamAppend: async (stream, e, state) => {
    const result = await client.multiStreamAppend([{ streamName: stream, events: [e], expectedState: state }]);
    assert.deepEqual(result.responses.map((r) => r.streamName), [stream]);
    return { revision: result.responses[0].revision, position: result.position };
  },
  appendRecords: async (stream, e, state) => {
    // "Any" is no check here but the absence of one.
    const checks = state === ANY ? undefined : [check(stream, state)];
    const result = await client.appendRecords([{ streamName: stream, record: e }], checks);
    assert.deepEqual(result.responses.map((r) => r.streamName), [stream]);
    return { revision: result.responses[0].revision, position: result.position };
  },
};

async function assertUntouched(stream, state, e) {
  if (state === "a live stream") {
    const stored = await read(client, stream);
    assert.deepEqual(revisions(stored), range(0, 3));
    assert.ok(!ids(stored).includes(e.id));
  } else if (state === "a tombstoned stream") {
    await refusal(() => read(client, stream), StreamDeletedError);
  } else {
    assert.equal(await versionOf(client, stream), NO_STREAM);
  }
}

for (const way of Object.keys(WAYS)) {
  for (const state of Object.keys(STATES)) {
    describe(`${way} to ${state}`, () => {
      for (const expected of Object.keys(EXPECTED)) {
        test(`expecting ${expected}`, async () => {
          const stream = await STATES[state]();
          const e = event("Decided", { way });
          const wanted = TABLE[state][expected];
          const append = () => WAYS[way](stream, e, EXPECTED[expected]);

          if ("written" in wanted) {
            const answer = await append();
            const [last] = await read(client, stream, { direction: BACKWARDS, fromRevision: END, maxCount: 1 });
            assert.deepEqual([last.event.id, last.event.revision], [e.id, wanted.written]);
            assert.deepEqual(answer, { revision: wanted.written, position: last.event.position.commit });
            return;
          }
          if (way === "appendRecords") {
            const error = await refusal(append, AppendConsistencyViolationError);
            assert.equal(error.violations.length, 1);
            const [violation] = error.violations;
            assert.equal(violation.checkIndex, 0);
            assert.equal(violation.streamName, stream);
            assert.equal(violation.actualState, "conflict" in wanted ? wanted.conflict : wanted.deleted);
          } else if ("conflict" in wanted) {
            const error = await refusal(append, WrongExpectedVersionError);
            assert.equal(error.streamName, stream);
            assert.equal(error.expectedState, EXPECTED[expected]);
            assert.equal(error.actualState, wanted.conflict);
          } else if (way === "appendToStream") {
            const error = await refusal(append, StreamDeletedError);
            assert.equal(error.streamName, stream);
          } else if (state === "a tombstoned stream") {
            const error = await refusal(append, StreamTombstonedError);
            assert.equal(error.stream, stream);
          } else {
            // "Deleted" and "tombstoned" are both honest here; this client has no name for the first.
            assert.ok(!((await refusal(append)) instanceof WrongExpectedVersionError));
          }
          await assertUntouched(stream, state, e);
        });
      }
    });
  }
}

// What only a check of appendRecords can expect (-5 soft-deleted, -6 tombstoned).
const V2_TABLE = {
  "a stream that never existed": { "-5": NO_STREAM, "-6": NO_STREAM },
  "a live stream": { "-5": LAST, "-6": LAST },
  "a soft-deleted stream": { "-5": true, "-6": LAST },
  "a tombstoned stream": { "-5": -6n, "-6": -6n },
};
for (const [state, row] of Object.entries(V2_TABLE)) {
  for (const [expected, actual] of Object.entries(row)) {
    test(`appendRecords to ${state} expecting state ${expected}`, async () => {
      const stream = await STATES[state]();
      const e = event("Revived");
      const append = () => client.appendRecords([{ streamName: stream, record: e }], [check(stream, BigInt(expected))]);
      if (actual === true) {
        assert.equal((await append()).responses[0].revision, LAST + 1n);
        assert.deepEqual(ids(await read(client, stream)), [e.id]);
      } else {
        const error = await refusal(append, AppendConsistencyViolationError);
        assert.equal(error.violations[0].actualState, actual);
        await assertUntouched(stream, state, e);
      }
    });
  }
}

const CHECK_ONLY = {
  "a stream that never existed": [[LAST, NO_STREAM], [NO_STREAM, true], [STREAM_EXISTS, NO_STREAM], [-5n, NO_STREAM], [-6n, NO_STREAM]],
  "a live stream": [[LAST, true], [LAST - 1n, LAST], [NO_STREAM, LAST], [STREAM_EXISTS, true], [-5n, LAST], [-6n, LAST]],
  "a soft-deleted stream": [[NO_STREAM, true], [STREAM_EXISTS, -5n], [-5n, true], [-6n, LAST]],
  "a tombstoned stream": [[LAST, -6n], [NO_STREAM, true], [STREAM_EXISTS, -6n], [-5n, -6n], [-6n, true]],
};
for (const [state, rows] of Object.entries(CHECK_ONLY)) {
  for (const [expected, actual] of rows) {
    test(`appendRecords elsewhere, ${state} checked for ${expected}`, async () => {
      const [checked, target] = [await STATES[state](), fresh()];
      const append = () => client.appendRecords([{ streamName: target, record: event() }], [check(checked, expected)]);
      if (actual === true) {
        assert.equal((await append()).responses[0].revision, 0n);
      } else {
        const error = await refusal(append, AppendConsistencyViolationError);
        assert.deepEqual(
          error.violations.map((v) => [v.checkIndex, v.streamName, v.actualState]),
          [[0, checked, actual]]
        );
        assert.equal(await versionOf(client, target), NO_STREAM);
      }
    });
  }
}

test("an append of no events is accepted, checked, and writes nothing", async () => {
  const [missing, live] = [fresh(), await makeLive(client, 2)];
  await client.appendToStream(missing, [], { streamState: NO_STREAM });
  await client.appendToStream(live, [], { streamState: 1n });
  assert.equal(await versionOf(client, missing), NO_STREAM);
  assert.deepEqual(revisions(await read(client, live)), range(0, 2));
  for (const [stream, state, actual] of [[missing, STREAM_EXISTS, NO_STREAM], [live, 5n, 1n]]) {
    const error = await refusal(() => client.appendToStream(stream, [], { streamState: state }), WrongExpectedVersionError);
    assert.equal(error.actualState, actual);
  }
});

test("an append of no events undeletes a soft-deleted stream", async () => {
  const stream = await makeSoftDeleted(client);
  const result = await client.appendToStream(stream, [], { streamState: ANY });
  assert.equal(result.nextExpectedRevision, 2n);
  assert.deepEqual(await read(client, stream), []);
});

test("a client told not to throw gets the refusal as a result", async () => {
  const { url } = require("./support");
  const quiet = connect(`${url}&throwOnAppendFailure=false`);
  const stream = await makeLive(client, 3);
  const result = await quiet.appendToStream(stream, event(), { streamState: 7n });
  assert.equal(result.success, false);
  assert.deepEqual(revisions(await read(client, stream)), range(0, 3));
});

test("an append of many events is one append", async () => {
  const [stream, batch] = [fresh(), events(2000)];
  const result = await client.appendToStream(stream, batch, { streamState: NO_STREAM });
  assert.equal(result.nextExpectedRevision, 1999n);
  const stored = await read(client, stream);
  assert.deepEqual(ids(stored), batch.map((e) => e.id));
  assert.deepEqual(revisions(stored), range(0, 2000));
});
