// Prices in the shop's currency, which the service's answers name.

import { el } from "./dom.js";
import { lasting } from "./storage.js";

function formatter() {
  const currency = lasting.read("currency");
  const style = currency ? { style: "currency", currency } : { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  return new Intl.NumberFormat(undefined, style);
}

let money = formatter();

/** Integer cents as money, as a bare number until the currency is known; a catalogue may not know a price. */
export function price(cents) {
  return cents === null || cents === undefined ? "Price unknown" : money.format(cents / 100);
}

export function priceTag(cents) {
  return el("span", { class: "price", "data-cents": cents }, price(cents));
}

/** Show every price in this currency (ISO 4217) from now on, those on the page too. */
export function useCurrency(currency) {
  if (!currency || currency === lasting.read("currency")) return;
  lasting.write("currency", currency);
  money = formatter();
  for (const tag of document.querySelectorAll("[data-cents]")) tag.textContent = price(Number(tag.dataset.cents));
}
