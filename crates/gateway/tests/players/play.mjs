#!/usr/bin/env node
// Plays transcripts against a gateway, by `ws`. Their form is told in ../transcripts/README.md.
//
//     play.mjs URL TRANSCRIPT... [NAME=VALUE...]
//
// It needs Node 18 and the package `ws`, which is found as Node finds it, or in the folder that `NODE_MODULES` names. It
// ends with 1 if a transcript went otherwise.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { request as askHttp } from "node:http";
import { request as askHttps } from "node:https";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";

const PATIENCE = 20_000;
const from = process.env.NODE_MODULES ? join(process.env.NODE_MODULES, "x.js") : import.meta.url;
const WebSocket = createRequire(from)("ws");

class Fault extends Error {}

/** Fails if it takes too long. */
function inTime(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Fault("nothing came in time")), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A socket whose messages wait in order until they are asked for. */
class Socket {
  constructor(path) {
    this.hasPing = path === "/ws";
    this.waiting = [];
    this.wanted = [];
  }

  open(url, headers) {
    this.inner = new WebSocket(url, { headers, perMessageDeflate: false });
    this.inner.on("message", (data, isBinary) =>
      this.arrived(isBinary ? { other: `the binary ${data.toString("hex")}` } : { text: data.toString() }));
    this.inner.on("close", (code) => this.arrived({ closed: code }));
    this.inner.on("pong", () => this.arrived({ pong: true }));
    return new Promise((resolve, reject) => {
      this.inner.on("open", resolve);
      this.inner.on("unexpected-response", (_, response) => {
        this.arrived({ closed: response.statusCode });
        this.inner.terminate();
        resolve();
      });
      // Once it is open, what is wrong with it shows in how it is closed.
      this.inner.on("error", reject);
    });
  }

  arrived(what) {
    const wanted = this.wanted.shift();
    if (wanted) wanted(what);
    else this.waiting.push(what);
  }

  next() {
    if (this.waiting.length > 0) return Promise.resolve(this.waiting.shift());
    return inTime(new Promise((resolve) => this.wanted.push(resolve)));
  }
}

class Player {
  constructor(url, variables) {
    this.url = new URL(url);
    this.known = new Map(variables);
    this.sockets = new Map();
    this.answer = undefined;
    this.pings = 0;
  }

  async play(transcript) {
    const lines = readFileSync(transcript, "utf8").split("\n");
    for (const [index, whole] of lines.entries()) {
      const line = whole.trim();
      if (line === "" || line.startsWith("#")) continue;
      try {
        await this.step(line);
      } catch (error) {
        throw new Fault(`line ${index + 1}: ${line}\n${error.message}`);
      }
    }
  }

  close() {
    for (const socket of this.sockets.values()) socket.inner.terminate();
  }

  async step(line) {
    if (line.startsWith("=")) return this.checkAnswer(line.slice(1).trim());
    const [first, rest] = parted(line);
    if (/^[A-Z]+$/.test(first)) return this.ask(first, rest);
    const parts = /^([a-z0-9]+)(>x|[-+><.!])$/.exec(first);
    if (!parts) throw new Fault("this line means nothing");
    const [, name, mark] = parts;
    if (mark === "+") return this.open(name, rest);
    const socket = this.sockets.get(name);
    if (!socket) throw new Fault(`there is no socket "${name}"`);
    switch (mark) {
      case ">": return socket.inner.send(this.filled(rest));
      case ">x": return socket.inner.send(Buffer.from(rest, "hex"));
      case "<": return this.check(rest, await this.text(socket));
      case ".": return this.checkSilent(socket);
      case "!": return this.checkClosed(name, socket, Number(rest));
      default:
        this.sockets.delete(name);
        return socket.inner.close();
    }
  }

  async open(name, rest) {
    const [path, headers] = parted(rest);
    const scheme = this.url.protocol === "https:" ? "wss" : "ws";
    const socket = new Socket(path);
    this.sockets.set(name, socket);
    await inTime(socket.open(`${scheme}://${this.url.host}${path}`, JSON.parse(this.filled(headers || "{}"))));
  }

  async text(socket) {
    const what = await socket.next();
    if (what.text === undefined) throw new Fault(`there came ${what.other ?? JSON.stringify(what)}`);
    return what.text;
  }

  async checkSilent(socket) {
    if (socket.hasPing) {
      const id = `ping ${++this.pings}`;
      socket.inner.send(JSON.stringify({ id, method: "ping" }));
      const text = await this.text(socket);
      if (JSON.parse(text).id !== id) throw new Fault(`there came ${text}`);
      return;
    }
    socket.inner.ping();
    const what = await socket.next();
    if (!what.pong) throw new Fault(`there came ${JSON.stringify(what)}`);
  }

  async checkClosed(name, socket, code) {
    this.sockets.delete(name);
    const what = await socket.next();
    if (what.closed !== code) throw new Fault(`there came ${JSON.stringify(what)}`);
  }

  async ask(method, rest) {
    const [path, behind] = parted(rest);
    const filled = this.filled(behind.trim() || "{}");
    const end = endOfObject(filled);
    const headers = JSON.parse(filled.slice(0, end));
    const body = filled.slice(end).trim();
    const hasKind = Object.keys(headers).some((header) => header.toLowerCase() === "content-type");
    if (body && !hasKind) headers["content-type"] = "application/json";
    if (body) headers["content-length"] = Buffer.byteLength(body);
    const send = this.url.protocol === "https:" ? askHttps : askHttp;
    this.answer = await inTime(new Promise((resolve, reject) => {
      const asked = send(new URL(path, this.url), { method, headers, agent: false }, (answer) => {
        const parts = [];
        answer.on("data", (part) => parts.push(part));
        answer.on("end", () => resolve([answer.statusCode, Buffer.concat(parts).toString()]));
      });
      asked.on("error", reject);
      asked.end(body);
    }));
  }

  checkAnswer(line) {
    if (!this.answer) throw new Fault("nothing was asked");
    const [status, body] = this.answer;
    this.answer = undefined;
    const [code, expected] = parted(line);
    if (status !== Number(code)) throw new Fault(`the status is ${status}: ${body}`);
    if (expected) this.check(expected, body);
  }

  check(expected, found) {
    const wanted = parsed(expected);
    const came = parsed(found);
    const fits = wanted === undefined ? expected === found : came !== undefined && this.fits(wanted, came);
    if (!fits) throw new Fault(`there came ${found}`);
  }

  fits(expected, found) {
    if (typeof expected === "string") {
      if (expected === "$*") return true;
      if (/^\$[A-Za-z][A-Za-z0-9_]*$/.test(expected)) {
        const name = expected.slice(1);
        if (!this.known.has(name)) this.known.set(name, found);
        return isDeepStrictEqual(this.known.get(name), found);
      }
      return this.filledInString(expected) === found;
    }
    if (expected === null || typeof expected !== "object") return expected === found;
    if (found === null || typeof found !== "object" || Array.isArray(expected) !== Array.isArray(found)) return false;
    const keys = Object.keys(expected);
    return keys.length === Object.keys(found).length
      && keys.every((key) => Object.hasOwn(found, key) && this.fits(expected[key], found[key]));
  }

  names() {
    return [...this.known.keys()].sort().reverse();
  }

  filled(text) {
    return this.names().reduce((text, name) => {
      const whole = text.replaceAll(`"$${name}"`, () => JSON.stringify(this.known.get(name)));
      return whole.replaceAll(`$${name}`, () => plain(this.known.get(name)));
    }, text);
  }

  filledInString(text) {
    return this.names().reduce((text, name) => text.replaceAll(`$${name}`, () => plain(this.known.get(name))), text);
  }
}

function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What stands before the first space, and what behind. */
function parted(text) {
  const space = text.indexOf(" ");
  return space < 0 ? [text, ""] : [text.slice(0, space), text.slice(space + 1)];
}

/** Where the object ends that a text begins with. */
function endOfObject(text) {
  for (let end = text.indexOf("}") + 1; end > 0; end = text.indexOf("}", end) + 1) {
    if (parsed(text.slice(0, end)) !== undefined) return end;
  }
  throw new Fault("headers are missing");
}

const [url, ...rest] = process.argv.slice(2);
const isVariable = (text) => /^[A-Z][A-Z0-9_]*=/.test(text);
const variables = rest.filter(isVariable).map((text) => [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)]);
const transcripts = rest.filter((text) => !isVariable(text));
if (transcripts.length === 0) {
  console.error("play.mjs URL TRANSCRIPT... [NAME=VALUE...]");
  process.exit(2);
}
let failed = 0;
for (const transcript of transcripts) {
  const player = new Player(url, variables);
  try {
    await player.play(transcript);
  } catch (error) {
    failed += 1;
    console.error(`${transcript}: ${error.message}`);
  } finally {
    player.close();
  }
}
console.log(`${transcripts.length - failed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
