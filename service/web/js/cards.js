// Cards and the rows they stand in: one row shows one answer of the service.

import { recommend } from "./api.js";
import * as cart from "./cart.js";
import { el, toast } from "./dom.js";
import { cameThrough, confirmSeen, settled, track } from "./events.js";
import { calm, categoryPath } from "./text.js";
import { priceTag } from "./money.js";
import { picture } from "./tiles.js";

const SHOWN = 12;
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
      priceTag(item.price_cents),
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

/** By answer of the page that is open: the items of which at least half stood in the window. */
const seen = new Map();
const watch = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) seen.get(target.dataset.answer)?.add(target.dataset.item);
  }
}, { threshold: 0.5 });

function watchFor(cards, answer) {
  seen.set(answer.request_id, new Set());
  for (const card of cards.children) {
    card.dataset.answer = answer.request_id;
    watch.observe(card);
  }
}

/** Tell the service what was really seen of the page that is left: once for each answer, so only when it is left. */
function confirmPage() {
  watch.disconnect();
  for (const [request_id, items] of seen) {
    if (items.size) confirmSeen(request_id, [...items]);
  }
  seen.clear();
}

addEventListener("pagehide", confirmPage);
document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && confirmPage());

function fill({ section, about, cards }, answer) {
  const { items } = answer;
  section.classList.toggle("empty", items.length === 0);
  about.replaceChildren(
    el("span", {}, answer.surface), el("span", {}, `served by ${answer.served_by}`),
    el("span", {}, `${Math.round(answer.took_ms)} ms`),
    answer.degraded ? el("strong", { class: "badge", title: answer.warnings.join("; ") }, "degraded") : "",
    el("span", { class: "why" }, `${answer.model_version} · request ${answer.request_id}`));
  cards.replaceChildren(...(items.length ? items.map((item) => card(item, answer)) : [el("li", { class: "none" }, "Nothing here yet.")]));
}

/**
 * Ask for the rows one after another, each without what stands above it: no item twice on a page, and the service
 * logs as shown exactly what is shown. `rows`: `{title, surface, ...question}` each.
 * Asks only when every event so far has arrived. Rejects when the service does not answer.
 */
export async function showRows(host, rows, signal) {
  const places = rows.map(skeletonRow);
  confirmPage();
  host.replaceChildren(...places.map((place) => place.section));
  await settled();
  const shown = [];
  for (const [index, { title: _, ...question }] of rows.entries()) {
    const { section, cards } = places[index];
    try {
      const answer = await recommend({ k: SHOWN, exclude_item_ids: shown, ...question }, signal);
      shown.push(...answer.items.map((item) => item.item_id));
      fill(places[index], answer);
      if (answer.items.length) watchFor(cards, answer);
    } catch (error) {
      if (signal.aborted || (index === 0 && error.unreachable)) throw error;
      cards.replaceChildren(el("li", { class: "none" }, `Could not be loaded. ${error.message}`));
    }
    section.removeAttribute("aria-busy");
  }
  if (places.every(({ section }) => section.classList.contains("empty"))) {
    host.replaceChildren(el("p", { class: "none" }, "Nothing to recommend yet: the catalogue may be empty."));
  }
}
