"use strict";
// What the scenarios share: names, events, bounded waiting, the shape of a refusal.
//
// Stream names are new in every scenario, so that the suite runs again and again on
// one server, beside the other suites, whatever `$all` already holds.

const assert = require("node:assert/strict");
const { execSync } = require("node:child_process");
const { randomUUID } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { json } = require("node:stream/consumers");
const { after } = require("node:test");
const {
  ANY,
  BACKWARDS,
  END,
  KurrentDBClient,
  NO_STREAM,
  StreamNotFoundError,
  binaryEvent,
  jsonEvent,
} = require("@kurrent/kurrentdb-client");

const MAX_REVISION = 9223372036854775807n;
const MESSAGE_MAX = 16_767_216; // the server's receive limit for one Streams message
const PATIENCE_MS = 15_000;

const clusterUrl = process.env.ANNALS_CLUSTER_URL || undefined;
const url = process.env.ANNALS_URL || clusterUrl;
if (!url) {
  console.error("set ANNALS_URL, for example kurrentdb://127.0.0.1:2113?tls=false");
  process.exit(2);
}

/** A client that lives as long as the test file. */
function connect(to = url) {
  const client = KurrentDBClient.connectionString(to);
  after(() => client.dispose());
  return client;
}

const fresh = (prefix = "node") => `${prefix}-${randomUUID().replaceAll("-", "")}`;
const freshWord = () => `node${randomUUID().replaceAll("-", "")}`;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

const event = (type = "Happened", data = {}, more = {}) => jsonEvent({ type, data, ...more });
const events = (count, type = "Happened") => Array.from({ length: count }, (_, n) => event(type, { n }));
const link = (revision, stream) => binaryEvent({ type: "$>", data: Buffer.from(`${revision}@${stream}`) });

async function collect(iterable) {
  const all = [];
  for await (const item of iterable) all.push(item);
  return all;
}

const read = (client, stream, options) => collect(client.readStream(stream, options));
const ids = (read) => read.map((e) => e.event?.id);
const revisions = (read) => read.map((e) => e.event?.revision);
const range = (from, to) => Array.from({ length: to - from }, (_, n) => BigInt(from + n));

/** The last revision, or NO_STREAM when a reader finds no stream. */
async function versionOf(client, stream) {
  try {
    const [last] = await read(client, stream, { direction: BACKWARDS, fromRevision: END, maxCount: 1 });
    return last?.event?.revision;
  } catch (error) {
    if (error instanceof StreamNotFoundError) return NO_STREAM;
    throw error;
  }
}

async function endOfAll(client) {
  const [last] = await collect(client.readAll({ direction: BACKWARDS, fromPosition: END, maxCount: 1 }));
  const commit = last?.commitPosition ?? 0n;
  return { commit, prepare: commit };
}

async function makeLive(client, count = 3, stream = fresh()) {
  await client.appendToStream(stream, events(count), { streamState: NO_STREAM });
  return stream;
}
async function makeSoftDeleted(client, count = 3, stream = fresh()) {
  await makeLive(client, count, stream);
  await client.deleteStream(stream);
  return stream;
}
async function makeTombstoned(client, count = 3, stream = fresh()) {
  await makeLive(client, count, stream);
  await client.tombstoneStream(stream);
  return stream;
}
async function makeMetadataOnly(client) {
  const stream = fresh();
  await client.setStreamMetadata(stream, { owner: "nobody" }, { expectedRevision: NO_STREAM });
  return stream;
}

/**
 * The error `action` rejects with, which must be of the given class. An answer the client
 * cannot understand may leave the call pending for ever, hence the limit.
 */
async function refusal(action, type) {
  let error, timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new assert.AssertionError({ message: "was never answered" })), PATIENCE_MS);
  });
  try {
    await Promise.race([action(), limit]);
  } catch (e) {
    error = e;
  } finally {
    clearTimeout(timer);
  }
  if (error instanceof assert.AssertionError) throw error;
  assert.ok(error, "should have been refused");
  if (type) assert.ok(error instanceof type, `expected ${type.name}, got ${error?.constructor?.name}: ${error?.message}`);
  return error;
}

/** A name out of a trailer: trailers are ASCII, so anything else arrives percent-encoded. */
function sameName(told, name) {
  if (told === name) return true;
  try {
    return decodeURIComponent(told) === name;
  } catch {
    return false;
  }
}

/** Collects what a subscription delivers and lets a scenario wait for it, with an end. */
class Subscriber {
  constructor(subscription) {
    this.subscription = subscription;
    this.events = [];
    this.caughtUp = [];
    this.error = undefined;
    this.ended = false;
    this.waiting = new Set();
    const changed = () => this.waiting.forEach((check) => check());
    subscription.on("data", (e) => (this.events.push(e), changed()));
    subscription.on("caughtUp", (info) => (this.caughtUp.push({ ...info, after: this.events.length }), changed()));
    subscription.on("error", (e) => ((this.error = e), (this.ended = true), changed()));
    subscription.on("end", () => ((this.ended = true), changed()));
    subscription.on("close", () => ((this.ended = true), changed()));
  }

  until(what, describe, timeout = PATIENCE_MS) {
    return new Promise((resolve, reject) => {
      const stop = () => (this.waiting.delete(check), clearTimeout(timer));
      const check = () => {
        if (what()) return stop(), resolve();
      };
      const timer = setTimeout(() => {
        stop();
        const types = this.events.slice(-20).map((e) => `${e.event?.type}@${e.event?.revision}`);
        reject(new Error(`waited for ${describe}; ended=${this.ended} error=${this.error}; saw ${types}`));
      }, timeout);
      this.waiting.add(check);
      check();
    });
  }

  async untilEvents(count, timeout) {
    await this.until(() => this.events.length >= count, `${count} events`, timeout);
    return this.events;
  }

  async untilCaughtUp() {
    await this.until(() => this.caughtUp.length > 0, "caught up");
    return this.caughtUp[0];
  }

  async untilEnded() {
    await this.until(() => this.ended, "the end");
    return this.error;
  }
}

/** Runs `body` with a subscriber and unsubscribes whatever happens. */
async function subscribed(subscription, body) {
  const subscriber = new Subscriber(subscription);
  try {
    return await body(subscriber);
  } finally {
    await subscription.unsubscribe();
  }
}

// --- clusters ------------------------------------------------------------------

const clusterHosts = () => clusterUrl.split("://")[1].split("?")[0].replace(/\/$/, "").split("@").at(-1).split(",");
const directUrl = (host, preference = "follower") =>
  `${clusterUrl.replace(clusterHosts().join(","), host)}&nodePreference=${preference}`;

/** The members that a node tells over HTTP. */
function gossip(host) {
  const ca = new URLSearchParams(clusterUrl.split("?")[1]).get("tlsCaFile");
  const [scheme, { get }] = ca ? ["https", require("node:https")] : ["http", require("node:http")];
  const options = { ca: ca && readFileSync(ca), signal: AbortSignal.timeout(3000) };
  return new Promise((done, failed) => {
    const request = get(`${scheme}://${host}/gossip`, options, (answer) => {
      json(answer).then(({ members }) => done(members), failed);
    });
    request.on("error", failed);
  });
}

async function leaderAndFollowers(timeout = 30_000) {
  const deadline = Date.now() + timeout;
  let last;
  while (Date.now() < deadline) {
    for (const host of clusterHosts()) {
      try {
        const members = await gossip(host);
        last = members;
        const alive = members.filter((m) => m.isAlive);
        const named = (state) =>
          alive.filter((m) => m.state === state).map((m) => `${m.httpEndPointIp}:${m.httpEndPointPort}`);
        const [leaders, followers] = [named("Leader"), named("Follower")];
        if (leaders.length === 1 && followers.length === clusterHosts().length - 1) {
          return { leader: leaders[0], followers };
        }
      } catch (error) {
        last = error;
      }
    }
    await sleep(200);
  }
  throw new Error(`no healthy cluster within ${timeout} ms; last answer: ${JSON.stringify(last) ?? last}`);
}

const runHarness = (variable) => execSync(process.env[variable], { stdio: "inherit", timeout: 120_000 });

/** Repeats `action` until it succeeds: sound only because the events keep their ids. */
async function retrying(action, timeout = 60_000) {
  const deadline = Date.now() + timeout;
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (Date.now() > deadline) throw new Error(`did not succeed within ${timeout} ms`, { cause: error });
      await sleep(100);
    }
  }
}

module.exports = {
  ANY,
  MAX_REVISION,
  MESSAGE_MAX,
  Subscriber,
  clusterHosts,
  clusterUrl,
  collect,
  connect,
  directUrl,
  endOfAll,
  event,
  events,
  fresh,
  freshWord,
  ids,
  leaderAndFollowers,
  link,
  makeLive,
  makeMetadataOnly,
  makeSoftDeleted,
  makeTombstoned,
  range,
  read,
  refusal,
  retrying,
  revisions,
  runHarness,
  sameName,
  sleep,
  subscribed,
  url,
  versionOf,
};
