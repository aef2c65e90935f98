// The service's HTTP interface, one function for each question.

import { useCurrency } from "./money.js";
import { identity } from "./shopper.js";

const TIMEOUT_MS = 8000;

/** The service refused (4xx), failed (5xx) or did not answer (status 0). */
export class ServiceError extends Error {
  constructor(message, status, body = null) {
    super(message);
    this.status = status;
    this.body = body;
  }

  get unreachable() {
    return this.status === 0 || this.status >= 500;
  }
}

async function ask(path, options = {}) {
  const limits = [AbortSignal.timeout(TIMEOUT_MS), options.signal].filter(Boolean);
  let response;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.any(limits) });
  } catch (error) {
    if (error.name === "AbortError") throw error; // the shopper went on to another page
    throw new ServiceError("The shop's service does not answer.", 0);
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) {
    useCurrency(body.currency);
    return body;
  }
  const detail = typeof body?.detail === "string" ? body.detail : `The service answered ${response.status}.`;
  throw new ServiceError(detail, response.ok ? 502 : response.status, body);
}

let asked = null;

/** The storefront's key, which is as public as this page; null where the service is open. A failure is asked again. */
function storefrontKey() {
  asked ??= ask("demo/key").then(({ key }) => key, (error) => {
    asked = null;
    throw error;
  });
  return asked;
}

async function askWithKey(path, { headers, ...options } = {}) {
  const key = await storefrontKey();
  return ask(path, { ...options, headers: key === null ? headers : { ...headers, authorization: `Bearer ${key}` } });
}

/** An answer of `GET /recommend`, with `took_ms`: how long this browser waited for it. */
export async function recommend(question, signal) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...identity(), ...question })) {
    for (const one of Array.isArray(value) ? value : [value]) query.append(name, one);
  }
  const started = performance.now();
  const answer = await askWithKey(`recommend?${query}`, { signal });
  return { ...answer, took_ms: performance.now() - started };
}

export function fetchItem(itemId, signal) {
  return askWithKey(`items/${encodeURIComponent(itemId)}`, { signal });
}

export async function searchItems(words, signal) {
  return (await askWithKey(`search?${new URLSearchParams({ q: words })}`, { signal })).items;
}

export async function demoShoppers() {
  return (await askWithKey("demo/shoppers")).shoppers;
}

/** A verdict for each event; `keepalive` lets them arrive when the page is left. */
export async function postEvents(events) {
  const body = JSON.stringify({ events });
  const headers = { "content-type": "application/json" };
  try {
    return (await askWithKey("events", { method: "POST", headers, body, keepalive: true })).verdicts;
  } catch (error) {
    if (error.body?.verdicts) return error.body.verdicts; // all rejected: the service says 422, and why
    throw error;
  }
}
