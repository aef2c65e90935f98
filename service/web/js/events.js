// What the shopper does, told to the service. An event keeps its id when it is sent again, so it counts once.

import { postEvents } from "./api.js";
import { el, toast } from "./dom.js";
import { identity, randomId } from "./shopper.js";

const RETRY_AFTER_MS = 400;
const PATIENCE_MS = 3000;
const JOURNAL_LINES = 12;

let pending = Promise.resolve();
const origins = new Map();

/** Remember that a shopper came to an item through a recommendation: later events on it say so. */
export function cameThrough(itemId, { request_id, surface }) {
  origins.set(itemId, { request_id, surface });
}

/** `{request_id, surface}` of the recommendation that led to an item, or `{}`. */
export function originOf(itemId) {
  return origins.get(itemId) ?? {};
}

/** Send events; true when the service has every one of them. Who acts, and an id, are filled in. */
export function track(...events) {
  const sent = deliver(events.map((event) => ({ event_id: randomId(), ...identity(), ...event })));
  pending = Promise.all([pending, sent]);
  return sent;
}

/** Confirm which items of an answer were seen. It changes no answer, so nobody waits for it, and only the journal tells when it is lost. */
export function confirmSeen(request_id, items) {
  deliver([{ event_id: randomId(), ...identity(), type: "render", request_id, items }], () => {});
}

/** Resolves when the service has all that was tracked, so that its next answer can reflect it. */
export function settled() {
  return Promise.race([pending, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))]);
}

async function deliver(events, complain = (text) => toast(text, "warning")) {
  try {
    const verdicts = await postTwice(events);
    journal(events, verdicts);
    const rejected = verdicts.filter((verdict) => verdict.verdict === "rejected");
    if (rejected.length) complain(`Not counted: ${rejected[0].reason}`);
    return rejected.length === 0;
  } catch (error) {
    complain("The shop could not note that. Recommendations may lag behind.");
    journal(events, events.map(() => ({ verdict: "lost", reason: error.message })));
    return false;
  }
}

async function postTwice(events) {
  try {
    return await postEvents(events);
  } catch (error) {
    if (!error.unreachable) throw error;
    await new Promise((resolve) => setTimeout(resolve, RETRY_AFTER_MS));
    return postEvents(events);
  }
}

/** The latest verdicts, shown at the foot of the page when "Why?" is on. */
function journal(events, verdicts) {
  const list = document.querySelector("#journal ol");
  events.forEach((event, index) => {
    const { verdict, reason } = verdicts[index];
    const about = event.item_id ?? "of";
    const through = event.surface ? ` through ${event.surface}` : "";
    const answer = event.request_id ? ` ${event.request_id}` : "";
    list.prepend(el("li", {}, `${event.type} ${about}${through}${answer}: ${verdict}${reason ? `, ${reason}` : ""}`));
  });
  while (list.children.length > JOURNAL_LINES) list.lastChild.remove();
}
