// Who shops: a known user, or nobody in particular in one session.

import { lasting, visit } from "./storage.js";

/** A random id; `crypto.randomUUID` exists only where the page is secure (https or localhost). */
export function randomId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The user id, or null for an anonymous visitor. */
export function userId() {
  return lasting.read("user_id");
}

export function sessionId() {
  if (!visit.read("session_id")) visit.write("session_id", randomId());
  return visit.read("session_id");
}

/** Who every request and event speaks for. */
export function identity() {
  return userId() ? { user_id: userId(), session_id: sessionId() } : { session_id: sessionId() };
}

/** Shop as another user (null: anonymous), in a new session: nobody inherits what someone else looked at. */
export function become(user) {
  lasting.write("user_id", user);
  visit.write("session_id", randomId());
}
