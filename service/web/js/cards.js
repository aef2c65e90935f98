// Cards and the rows they stand in: one row shows one answer of the service.

import { recommend } from "./api.js";
import * as cart from "./cart.js";
import { el, toast } from "./dom.js";
import { cameThrough, settled, track } from "./events.js";
import { calm, categoryPath, price } from "./text.js";
import { picture } from "./tiles.js";

const SHOWN = 12;
/** Rows below the first ask for more, since what stands above them is left out. */
const SPARE = 6;
const SKELETONS = 6;

export function itemLink(itemId) {
  return `#/item/${encodeURIComponent(itemId)}`;
}

/** A card; with `answer`, what the service recommended there, it tells why and reports clicks. */
export function card(item, answer = null) {
  const clicked = () => {
    if (!answer) return;
    cameThrough(item.item_id, answer);
    track({ type: "click", item_id: item.item_id, request_id: answer.request_id, surface: answer.surface });
  };
  const title = calm(item.title);
  const kind = categoryPath(item.category).findLast((part) => !item.title.includes(part)); // not the title once more
  const place = [item.brand, kind].filter(Boolean).map(calm).join(" · ");
  return el("li", { class: "card", "data-item": item.item_id },
    el("a", { href: itemLink(item.item_id), onclick: clicked, onauxclick: (press) => press.button === 1 && clicked() },
      picture(item),
      el("span", { class: "title", title }, title)),
    el("span", { class: "place" }, place),
    answer && el("p", { class: "reason" }, calm(item.reason)),
    answer && el("p", { class: "why" }, `${item.source} · score ${Number(item.score.toPrecision(4))} · rank ${item.rank}`),
    el("div", { class: "buy" },
      el("span", { class: "price" }, price(item.price_cents)),
      el("button", { type: "button", class: "add", "aria-label": `Add ${title} to the cart`, onclick: () => {
        cart.add(item, 1, answer ?? undefined);
        toast(`In your cart: ${title}`);
      } }, "Add")));
}

export function grid(items) {
  return el("ul", { class: "grid" }, items.map((item) => card(item)));
}

/** A message in place of content, with an optional way on. */
export function notice(title, text, ...actions) {
  return el("section", { class: "notice" }, el("h1", { tabindex: "-1" }, title), el("p", {}, text), el("div", { class: "actions" }, actions));
}

export function unreachable(retry) {
  return notice("The shop is not answering", "Its service cannot be reached right now. Your cart is safe in this browser.",
    el("button", { type: "button", class: "primary", onclick: retry }, "Try again"));
}

function skeletonRow({ title, surface }) {
  const about = el("p", { class: "about" }, "\u00a0");
  const cards = el("ul", { class: "cards" }, Array.from({ length: SKELETONS }, () => el("li", { class: "card skeleton" })));
  const section = el("section", { class: "row", "data-surface": surface, "aria-label": title, "aria-busy": "true" },
    el("header", {}, el("h2", {}, title), about), cards);
  return { section, about, cards };
}

function fill({ section, about, cards }, answer, above) {
  const items = answer.items.filter((item) => !above.has(item.item_id)).slice(0, SHOWN);
  items.forEach((item) => above.add(item.item_id));
  section.classList.toggle("empty", items.length === 0);
  about.replaceChildren(
    el("span", {}, answer.surface), el("span", {}, `served by ${answer.served_by}`),
    el("span", {}, `${Math.round(answer.took_ms)} ms`),
    answer.degraded ? el("strong", { class: "badge", title: answer.warnings.join("; ") }, "degraded") : "",
    el("span", { class: "why" }, `${answer.model_version} · request ${answer.request_id}`));
  cards.replaceChildren(...(items.length ? items.map((item) => card(item, answer)) : [el("li", { class: "none" }, "Nothing here yet.")]));
}

/**
 * Ask for every row at once, show them in order, and show no item twice on the page.
 * `rows`: `{title, surface, ...question}` each; `above`: ids already on the page.
 * Asks only when every event so far has arrived. Rejects when no row could be had.
 */
export async function showRows(host, rows, { signal, above = [] }) {
  const places = rows.map(skeletonRow);
  host.replaceChildren(...places.map((place) => place.section));
  await settled();
  const asked = rows.map(({ title: _, ...question }, index) => recommend({ k: SHOWN + (index && SPARE), ...question }, signal));
  const outcomes = await Promise.allSettled(asked);
  signal.throwIfAborted();
  const failures = outcomes.filter((outcome) => outcome.status === "rejected");
  if (failures.length === rows.length) throw failures[0].reason;
  const shown = new Set(above);
  outcomes.forEach((outcome, index) => {
    const place = places[index];
    place.section.removeAttribute("aria-busy");
    if (outcome.status === "fulfilled") fill(place, outcome.value, shown);
    else place.cards.replaceChildren(el("li", { class: "none" }, `Could not be loaded. ${outcome.reason.message}`));
  });
  if (outcomes.every((_, index) => places[index].section.classList.contains("empty"))) {
    host.replaceChildren(el("p", { class: "none" }, "Nothing to recommend yet: the catalogue may be empty."));
  }
}
