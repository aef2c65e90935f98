// The pages. Each takes `{main, signal}` and what its address says, fills `main`, and returns its title.

import { fetchItem, searchItems } from "./api.js";
import { grid, itemLink, notice, showRows } from "./cards.js";
import * as cart from "./cart.js";
import { el, toast } from "./dom.js";
import { originOf, track } from "./events.js";
import { price, priceTag } from "./money.js";
import { userId } from "./shopper.js";
import { calm, categoryPath, plural } from "./text.js";
import { picture } from "./tiles.js";

/** The service takes no longer cart in a question; the latest items say most. */
const MOST_IN_A_QUESTION = 200;
/** What was bought before has a row of its own. */
const HOME = { title: "Recommended for you", surface: "home", only_new: true };
const HOME_ROWS = [
  { title: "Buy again", surface: "buy_again" },
  HOME,
  { title: "Trending now", surface: "trending" },
  { title: "New arrivals", surface: "new_arrivals" },
];

const homeLink = () => el("a", { class: "button primary", href: "#/" }, "To the shop");

export async function homePage({ main, signal }) {
  const greeting = userId() ? `Welcome back, ${userId()}` : "Good to see you";
  const rows = el("div", {});
  main.replaceChildren(
    el("header", { class: "hero" },
      el("h1", { tabindex: "-1" }, greeting),
      el("p", {}, userId()
        ? "Picked from what you bought and looked at, fresh with every click."
        : "Look around: the rows below follow what you do from the first click.")),
    rows);
  await showRows(rows, HOME_ROWS, signal);
  return "Corner Shop";
}

function categoryLink(path) {
  return `#/category?${new URLSearchParams({ path })}`;
}

/** Where an item or a category stands. */
function breadcrumb(category) {
  const parts = categoryPath(category).map((part, depth, all) =>
    el("li", {}, el("a", { href: categoryLink(all.slice(0, depth + 1).join(" > ")) }, calm(part))));
  return el("nav", { "aria-label": "Category", class: "crumbs" }, el("ol", {}, el("li", {}, el("a", { href: "#/" }, "Shop")), parts));
}

export async function categoryPage({ main, signal }, path) {
  const name = calm(categoryPath(path).at(-1) ?? "");
  const rows = el("div", {});
  main.replaceChildren(breadcrumb(path), el("header", { class: "hero" }, el("h1", { tabindex: "-1" }, name)), rows);
  await showRows(rows, [
    { title: "Picked for you", surface: "home", category: path },
    { title: "Trending here", surface: "trending", category: path },
    { title: "New here", surface: "new_arrivals", category: path },
  ], signal);
  return name;
}

function offer(item) {
  const amount = el("input", { type: "number", min: 1, max: 99, value: 1, id: "amount", inputmode: "numeric" });
  const add = (submit) => {
    submit.preventDefault();
    cart.add(item, amount.valueAsNumber);
    toast(`In your cart: ${calm(item.title)}`);
  };
  return el("div", { class: "offer" },
    el("h1", { tabindex: "-1" }, calm(item.title)),
    item.brand && el("p", { class: "place" }, "Brand: ", calm(item.brand)),
    priceTag(item.price_cents),
    el("form", { class: "add-form", onsubmit: add },
      el("label", { for: "amount", class: "unseen" }, "Quantity"), amount,
      el("button", { type: "submit", class: "primary" }, "Add to cart")),
    el("p", { class: "place" }, `Item ${item.item_id}`));
}

export async function productPage({ main, signal }, itemId) {
  main.replaceChildren(el("div", { class: "product" }, el("div", { class: "tile skeleton" }), el("div", { class: "offer skeleton" })));
  let item;
  try {
    item = await fetchItem(itemId, signal);
  } catch (error) {
    if (error.status !== 404) throw error;
    main.replaceChildren(notice("We do not have this item", `Nothing in the catalogue has the id ${itemId}.`, homeLink()));
    return "Not found";
  }
  track({ type: "view", item_id: item.item_id, ...originOf(item.item_id) });
  const rows = el("div", {});
  main.replaceChildren(breadcrumb(item.category), el("div", { class: "product" }, picture(item), offer(item)), rows);
  await showRows(rows, [
    { title: "Similar items", surface: "similar", item_id: item.item_id },
    { title: "Bought together with this", surface: "bought_together", item_id: item.item_id },
  ], signal);
  return calm(item.title);
}

function cartLine({ item, quantity }) {
  const title = calm(item.title);
  const change = (by, label, sign) =>
    el("button", { type: "button", "aria-label": `${label} ${title}`, onclick: () => cart.setQuantity(item.item_id, quantity + by) }, sign);
  return el("li", { class: "line", "data-item": item.item_id },
    picture(item),
    el("div", {}, el("a", { href: itemLink(item.item_id) }, title), el("span", { class: "place" }, `${price(item.price_cents)} each`)),
    el("div", { class: "stepper" }, change(-1, "One less of", "−"), el("span", { "aria-label": "Quantity" }, String(quantity)), change(1, "One more of", "+")),
    priceTag((item.price_cents ?? 0) * quantity),
    change(-quantity, "Remove", "×"));
}

function summary(bought) {
  const buy = async (press) => {
    press.target.disabled = true;
    const order = await cart.checkout();
    if (order) bought(order);
    else {
      press.target.disabled = false;
      toast("Your order did not go through. Nothing is lost: please try again.", "warning");
    }
  };
  return el("aside", { class: "summary", "aria-label": "Order" },
    el("p", {}, plural(cart.count(), "item")),
    el("p", { class: "total" }, el("span", {}, "Total"), el("strong", {}, price(cart.totalCents()))),
    el("button", { type: "button", class: "primary", id: "checkout", onclick: buy }, "Check out"),
    el("p", { class: "place" }, "A demonstration: nobody charges you."));
}

export async function cartPage({ main, signal }) {
  const contents = el("div", {});
  const rows = el("div", {});
  main.replaceChildren(contents, rows);

  const draw = () => {
    contents.replaceChildren(
      el("h1", { tabindex: "-1" }, "Your cart"),
      cart.count()
        ? el("div", { class: "cart" }, el("ul", { class: "lines" }, cart.lines().map(cartLine)), summary(thank))
        : el("p", { class: "none" }, "Nothing in it yet. Add something below, or go back ", el("a", { href: "#/" }, "to the shop"), "."));
  };
  const idsInCart = () => cart.lines().map((line) => line.item.item_id);
  let asked;
  const recommendations = () => {
    const inCart = idsInCart();
    asked = inCart.join(" ");
    const row = inCart.length ? { title: "Goes well with your cart", surface: "cart", cart: inCart.slice(-MOST_IN_A_QUESTION) } : HOME;
    return showRows(rows, [row], signal);
  };
  const redraw = () => {
    const focused = document.activeElement?.getAttribute("aria-label");
    draw();
    const again = [...contents.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === focused);
    if (focused) (again ?? contents.querySelector("h1")).focus();
    if (idsInCart().join(" ") === asked) return;
    recommendations().catch((error) => {
      if (!signal.aborted) rows.replaceChildren(el("p", { class: "none" }, error.message));
    });
  };
  const thank = (order) => {
    contents.replaceChildren(notice("Thank you!", `${plural(order.count, "item")} for ${price(order.cents)}. Order ${order.order_id}.`, homeLink()));
    contents.querySelector("h1").focus();
  };
  cart.cartChanges.addEventListener("change", redraw, { signal });
  draw();
  await recommendations();
  return "Your cart";
}

export async function searchPage({ main, signal }, words) {
  const heading = el("h1", { tabindex: "-1" }, words ? `Search: ${words}` : "What are you looking for?");
  main.replaceChildren(heading);
  if (!words) return "Search";
  main.append(el("ul", { class: "grid", "aria-busy": "true" }, Array.from({ length: 6 }, () => el("li", { class: "card skeleton" }))));
  const items = await searchItems(words, signal);
  const found = items.length ? grid(items) : el("p", { class: "none" }, "Nothing found. Try fewer or other words, or ", el("a", { href: "#/" }, "look around the shop"), ".");
  main.replaceChildren(heading, el("p", { class: "place" }, items.length ? plural(items.length, "item") : ""), found);
  return `Search: ${words}`;
}

export function noPage({ main }) {
  main.replaceChildren(notice("There is no such page", "The address may be mistyped.", homeLink()));
  return "Not found";
}
