// Words and numbers as a shopper reads them.

const currency = document.querySelector('meta[name="currency"]')?.content || "USD";
const money = new Intl.NumberFormat(undefined, { style: "currency", currency });

/** Integer cents as money; a catalogue may not know a price. */
export function price(cents) {
  return cents === null || cents === undefined ? "Price unknown" : money.format(cents / 100);
}

/** Runs of capitals, as old tills print them ("FLUID MILK 1 GA"), in calmer letters ("Fluid Milk 1 ga"). */
export function calm(text) {
  return text.replace(/[A-Z][A-Z0-9 &/.,:%'()+-]{4,}[A-Z)]/g, (run) =>
    run.toLowerCase().replace(/(?<![\d.] ?)(?<![a-z'])[a-z](?=[a-z]{2})/g, (letter) => letter.toUpperCase()),
  );
}

/** "Dairy > Milk > Whole" as its parts, from the broadest down. */
export function categoryPath(category) {
  return category ? category.split(" > ") : [];
}

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
