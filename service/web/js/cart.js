// The cart: kept in this browser for each shopper, turned into one order at checkout.

import { originOf, track } from "./events.js";
import { identity, randomId, userId } from "./shopper.js";
import { lasting } from "./storage.js";

/** Emits "change" whenever what `lines()` returns has changed. */
export const cartChanges = new EventTarget();

const key = () => `cart:${userId() ?? ""}`;
const orderKey = () => `order:${userId() ?? ""}`;

function save(lines) {
  lasting.write(key(), lines);
  cartChanges.dispatchEvent(new Event("change"));
}

/** `{item, quantity, event_id, origin}` each; `event_id` is that of the purchase to come. */
export function lines() {
  return lasting.read(key()) ?? [];
}

export function count() {
  return lines().reduce((sum, line) => sum + line.quantity, 0);
}

export function totalCents() {
  return lines().reduce((sum, line) => sum + line.quantity * (line.item.price_cents ?? 0), 0);
}

/** Put an item in the cart and tell the service; `origin` is the answer that it was offered in, if any. */
export function add(item, quantity = 1, origin = originOf(item.item_id)) {
  const { item_id, title, brand, category, price_cents, image_url } = item;
  const { request_id, surface } = origin;
  const present = lines();
  const line = present.find((one) => one.item.item_id === item_id);
  if (line) line.quantity += quantity;
  else {
    const kept = { item_id, title, brand, category, price_cents, image_url };
    present.push({ item: kept, quantity, event_id: randomId(), origin: { request_id, surface } });
  }
  save(present);
  return track({ type: "cart", item_id, quantity, price_cents, request_id, surface });
}

/** Change a line; 0 takes it out. */
export function setQuantity(itemId, quantity) {
  const present = lines();
  for (const line of present) if (line.item.item_id === itemId) line.quantity = quantity;
  save(present.filter((line) => line.quantity > 0));
}

/** Buy everything as one order; the cart is emptied only once the service has it. Resolves to the order or null. */
export async function checkout() {
  const order_id = lasting.read(orderKey()) ?? randomId();
  lasting.write(orderKey(), order_id); // like the lines' event ids, the same at a second try after a lost answer
  const order = { order_id, count: count(), cents: totalCents() };
  const bought = lines().map(({ item, quantity, event_id, origin }) => ({
    type: "purchase",
    event_id,
    ...identity(),
    ...origin,
    item_id: item.item_id,
    quantity,
    price_cents: item.price_cents,
    order_id,
  }));
  if (!(await track(...bought))) return null;
  lasting.write(orderKey(), null);
  save([]);
  return order;
}
