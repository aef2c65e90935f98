// A picture for every item: the catalogue's own, else a quiet tile with a drawing that fits its words.

import { drawing, el } from "./dom.js";

const DRAWINGS = {
  carton: "M8 3h8v3l2 4v11H6V10l2-4zM6 10h12M8 6h8",
  bottle: "M10 2h4v5c0 2 3 3 3 6v8a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1v-8c0-3 3-4 3-6zM7 14h10M7 18h10",
  can: "M7 5c0-1 2-2 5-2s5 1 5 2v14c0 1-2 2-5 2s-5-1-5-2zM7 5c0 1 2 2 5 2s5-1 5-2M7 10c0 1 2 2 5 2s5-1 5-2",
  loaf: "M4 10a4 4 0 0 1 4-4h8a4 4 0 0 1 2 7.5V19H6v-5.5A4 4 0 0 1 4 10zM10 10v3M14 10v3",
  apple: "M12 8c-2-1.5-7-1-7 5 0 4 3 8 5 8 1 0 1.3-.6 2-.6s1 .6 2 .6c2 0 5-4 5-8 0-6-5-6.5-7-5zM12 8c0-2 1-4 3-5",
  leaf: "M5 19C4 10 9 4 20 4c0 11-6 16-15 15zM5 19c3-6 6-9 10-11",
  meat: "M4 13c0-5 4-9 9-9s7 3 7 6-2 4-5 5-3 5-7 5-4-3-4-7zM15.5 9a1.5 1.5 0 1 1-3 0 1.5 1.5 0 0 1 3 0z",
  fish: "M3 12c3-5 9-6 13-2l5-3v10l-5-3c-4 4-10 3-13-2zM7.5 11.5v.01M11 9.5c1 1.5 1 3.5 0 5",
  cheese: "M3 13l13-7a5 5 0 0 1 5 5v2zM3 13v6h18v-6M9 16v.01M14 17v.01M17 15v.01",
  egg: "M12 3c4 0 6.5 6 6.5 10a6.5 6.5 0 0 1-13 0C5.5 9 8 3 12 3z",
  frozen: "M12 3v18M4.2 7.5l15.6 9M19.8 7.5l-15.6 9M9.5 4.5L12 7l2.5-2.5M9.5 19.5L12 17l2.5 2.5",
  tub: "M5 8h14l-2 12H7zM4 5h16v3H4zM8 13h8",
  cup: "M4 9h12v6a5 5 0 0 1-5 5H9a5 5 0 0 1-5-5zM16 10.5h2a2.5 2.5 0 0 1 0 5h-2M8 3v3M12 3v3",
  bowl: "M3 11h18a9 9 0 0 1-6 8.5H9A9 9 0 0 1 3 11zM9 3.5c-1 1.5 1 2.5 0 4M14 3.5c-1 1.5 1 2.5 0 4",
  jar: "M8 3h8v3H8zM8 6c-1 1-1.5 2-1.5 3v11a1 1 0 0 0 1 1h9a1 1 0 0 0 1-1V9c0-1-.5-2-1.5-3M6.5 11h11M6.5 17h11",
  snack: "M6 3h12l-1 3 1 12-1 3H7l-1-3 1-12zM7 6h10M15 13a3 3 0 1 1-6 0 3 3 0 0 1 6 0z",
  candy: "M8 12a4 4 0 1 0 8 0 4 4 0 0 0-8 0zM8.5 10L3 7v9l5.5-2.5M15.5 10L21 7v9l-5.5-2.5",
  cookie: "M12 3a9 9 0 1 0 9 9 4 4 0 0 1-5-4 4 4 0 0 1-4-5zM8.5 10v.01M8 15v.01M13 17v.01M13 12v.01",
  pizza: "M12 21L3 7c5-4 13-4 18 0zM5 10c4-3 10-3 14 0M11 12v.01M14 12.5v.01M12 16v.01",
  paw: "M12 12.5c3 0 5 3 5 5s-2 2.5-5 2.5-5-.5-5-2.5 2-5 5-5zM5 10v1.5M9.5 5.5V7.5M14.5 5.5V7.5M19 10v1.5",
  roll: "M7 3h10c2 0 4 2 4 5s-2 5-4 5-4-2-4-5 2-5 4-5M7 3C5 3 3 5 3 8v13h10V8M17 8v.01",
  spray: "M9 3h7v3H9zM11 6v3M16 4.5h3M14 6v3c2 1 4 3 4 6v6H7v-6c0-3 2-5 4-6",
  drop: "M12 3c4 5 6 8 6 11a6 6 0 0 1-12 0c0-3 2-6 6-11zM9 14a3 3 0 0 0 3 3",
  pill: "M6.5 17.5a4.2 4.2 0 0 1 0-6l5-5a4.2 4.2 0 0 1 6 6l-5 5a4.2 4.2 0 0 1-6 0zM9 9l6 6",
  flower: "M7 4l2.5 2L12 3l2.5 3L17 4v5a5 5 0 0 1-10 0zM12 14v7M12 20c-2.5 0-4.5-1-5.5-3.5M12 20c2.5 0 4.5-1 5.5-3.5",
  book: "M3 5c3-1.5 7-1 9 1 2-2 6-2.5 9-1v14c-3-1.5-7-1-9 1-2-2-6-2.5-9-1zM12 6v14",
  wine: "M8 3h8c1 5 0 9-4 9S7 8 8 3zM12 12v8.5M8.5 20.5h7M7.5 7h9",
  lipstick: "M9.5 11V6.5l5-3.5v8M8 11h8v4H8zM7 15h10v6H7z",
  box: "M5 8l7-4 7 4v9l-7 4-7-4zM5 8l7 4 7-4M12 12v9",
};

/** Words, drawing, hue. The first rule whose words occur in "title category" wins; a shop of another trade gets initials. */
const RULES = [
  [/pizza/, "pizza", 15],
  [/\b(cat|dog|pet|bird) |animal/, "paw", 30],
  [/frzn|frozen|ice cream|sherb|\bice\b/, "frozen", 200],
  [/egg/, "egg", 42],
  [/yogurt|margarine|butter\b|sour cream|cottage|dips?\b/, "tub", 260],
  [/cheese/, "cheese", 48],
  [/coffee|\bteas?\b|cocoa/, "cup", 24],
  [/\bmilk|creamer|juice|drnks/, "carton", 212],
  [/soft drink|beverage|lemonade|beer|\bales?\b|water|isotonic|drink|dressing|drsng|oil\b|syrup/, "bottle", 188],
  [/wine|spirits|liquor/, "wine", 338],
  [/cookie|sweet goods|cake|dessert|donut|pastr|muffin/, "cookie", 30],
  [/bread|bun|roll|dough|bagel|tortilla/, "loaf", 36],
  [/soup|cereal|oatmeal|salad bar/, "bowl", 18],
  [/candy|gum\b|chocolate/, "candy", 318],
  [/chip|snack|cracker|popcorn|nuts?\b|pretzel/, "snack", 12],
  [/seafood|fish|shrimp|tuna|salmon/, "fish", 196],
  [/meat|beef|pork|chicken|turkey|bacon|sausage|hot dog|\bham\b|hotdog/, "meat", 4],
  [/sauce|condiment|jelly|jam|peanut|pickle|relish|spice|mayo|baby food/, "jar", 26],
  [/canned|shelf stable|bean/, "can", 165],
  [/floral|\bflower|garden/, "flower", 326],
  [/fruit|apple|banana|citrus|berr|grape|melon|tomato|peach|pear/, "apple", 350],
  [/vegetable|salad|lettuce|potato|onion|carrot|pepper|mushroom|broccoli|produce|organic|nutrition/, "leaf", 108],
  [/tissue|towel|napkin|paper|diaper|wrap/, "roll", 238],
  [/clean|detergent|laundry|bleach|air care|household/, "spray", 178],
  [/cosmetic|makeup|hair|lip/, "lipstick", 330],
  [/soap|shampoo|hygiene|deodorant|oral|lotion|bath/, "drop", 204],
  [/cold and flu|vitamin|analgesic|medic|antacid|first aid/, "pill", 150],
  [/magazine|book|newspaper|greeting|stationery|card/, "book", 228],
  [/grocery|pasta|noodle|rice|dinner|mix|sugar|flour|baking/, "box", 60],
];

/** The same words always give the same number from 0 to 359. */
function hueOf(words) {
  let hash = 7;
  for (const letter of words) hash = (hash * 31 + letter.codePointAt(0)) % 100_003;
  return (hash * 137) % 360;
}

function initials(title) {
  return title.split(/\s+/).slice(0, 2).map((word) => [...word][0] ?? "").join("").toUpperCase();
}

function drawnTile(item) {
  const words = `${item.title} ${item.category ?? ""}`.toLowerCase();
  const [, name, base] = RULES.find(([pattern]) => pattern.test(words)) ?? [];
  const own = hueOf(item.category ?? item.title);
  const tile = el("div", { class: "tile", "aria-hidden": "true" }, name ? drawing(DRAWINGS[name]) : initials(item.title));
  tile.style.setProperty("--hue", name ? base + (own % 31) - 15 : own); // neighbours of one kind differ a little
  return tile;
}

/** Decorative: the title always stands beside it. */
export function picture(item) {
  const tile = drawnTile(item);
  if (!item.image_url) return tile;
  const image = el("img", { src: item.image_url, alt: "", loading: "lazy", referrerpolicy: "no-referrer" });
  image.addEventListener("error", () => image.remove());
  tile.append(image);
  return tile;
}
