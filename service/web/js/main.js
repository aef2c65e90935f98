// The storefront's entry: the header, and which page stands under an address (`#/`, `#/item/ID`, `#/cart`,
// `#/category?path=`, `#/search?q=`).

import { demoShoppers } from "./api.js";
import { unreachable } from "./cards.js";
import { cartChanges, count } from "./cart.js";
import { el } from "./dom.js";
import { cartPage, categoryPage, homePage, noPage, productPage, searchPage } from "./pages.js";
import { become, userId } from "./shopper.js";
import { lasting } from "./storage.js";
import { plural } from "./text.js";

const SHOP = "Corner Shop";
const main = document.getElementById("main");
const byId = (id) => document.getElementById(id);
let leaving = new AbortController();

/** A value that stands behind the address's question mark. */
function given(name) {
  return new URLSearchParams(location.hash.split("?")[1]).get(name)?.trim() ?? "";
}

function currentPage() {
  const [name, ...rest] = location.hash.split("?")[0].replace(/^#?\/?/, "").split("/");
  if (name === "") return homePage;
  if (name === "cart") return cartPage;
  if (name === "search") return (page) => searchPage(page, given("q"));
  if (name === "category" && given("path")) return (page) => categoryPage(page, given("path"));
  if (name === "item" && rest.length === 1) return (page) => productPage(page, decodeURIComponent(rest[0]));
  return noPage;
}

async function show({ focus = true } = {}) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  window.scrollTo(0, 0);
  byId("q").value = given("q");
  try {
    const title = currentPage()({ main, signal });
    if (focus) main.focus({ preventScroll: true });
    const text = await title;
    if (!signal.aborted) document.title = text === SHOP ? SHOP : `${text} · ${SHOP}`;
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof URIError) noPage({ main });
    else main.replaceChildren(unreachable(() => show()));
    if (error.unreachable === undefined && !(error instanceof URIError)) throw error; // ours: let the console have it
  }
}

function showCount() {
  byId("cart-count").textContent = String(count());
  byId("cart-count").setAttribute("aria-label", plural(count(), "item"));
}

function shopAs(user) {
  become(user);
  byId("shopper-name").textContent = user ?? "Anonymous";
  document.querySelector("details.shopper").open = false;
  showCount();
  if (location.hash === "#/" || location.hash === "") show();
  else location.hash = "#/";
}

async function offerShoppers() {
  const choice = (user, name, note) =>
    el("li", {}, el("button", { type: "button", "data-user": user ?? "", onclick: () => shopAs(user) }, name, el("span", { class: "place" }, note)));
  const list = byId("shoppers");
  list.replaceChildren(choice(null, "Anonymous", "nothing known"));
  const shoppers = await demoShoppers().catch(() => []); // without them the id field still works
  list.append(...shoppers.map(({ user_id, events }) => choice(user_id, user_id, plural(events, "event"))));
}

function explain(on) {
  document.body.classList.toggle("explaining", on);
  byId("explain").setAttribute("aria-pressed", String(on));
  lasting.write("explain", on);
}

function wireHeader() {
  const switcher = document.querySelector("details.shopper");
  document.querySelector("form.search").addEventListener("submit", (submit) => {
    submit.preventDefault();
    location.hash = `#/search?${new URLSearchParams(new FormData(submit.target))}`;
  });
  byId("shopper-form").addEventListener("submit", (submit) => {
    submit.preventDefault();
    shopAs(new FormData(submit.target).get("user_id").trim() || null);
    submit.target.reset();
  });
  switcher.addEventListener("toggle", () => switcher.open && offerShoppers());
  document.addEventListener("click", (press) => {
    if (!switcher.contains(press.target)) switcher.open = false;
  });
  document.addEventListener("keydown", (press) => {
    if (press.key !== "Escape" || !switcher.open) return;
    switcher.open = false;
    switcher.querySelector("summary").focus();
  });
  document.querySelector("a.skip").addEventListener("click", (press) => {
    press.preventDefault(); // "#main" would be an address of ours
    main.focus();
  });
  byId("explain").addEventListener("click", () => explain(!document.body.classList.contains("explaining")));
  byId("shopper-name").textContent = userId() ?? "Anonymous";
  explain(lasting.read("explain") ?? false);
  cartChanges.addEventListener("change", showCount);
  showCount();
}

wireHeader();
window.addEventListener("hashchange", () => show());
show({ focus: false });
