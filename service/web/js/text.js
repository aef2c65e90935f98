// Words as a shopper reads them.

const UNITS = new Set(["oz", "lb", "ga", "ct", "pk", "pt", "qt", "dz", "sq", "ft", "ml", "l", "of", "in", "and", "with"]);

function lowered(capitals) {
  return capitals.toLowerCase().replace(/[a-z][a-z']*/g, (word) => (UNITS.has(word) ? word : word[0].toUpperCase() + word.slice(1)));
}

/** Capitals as old tills print them ("FLUID MILK 1 GA") in calmer letters ("Fluid Milk 1 ga"), alone or inside a sentence. */
export function calm(text) {
  if (!/[a-z]/.test(text)) return lowered(text);
  return text.replace(/[A-Z][A-Z0-9 &/.,:%'()+-]{10,}[A-Z)]/g, lowered);
}

/** "Dairy > Milk > Whole" as its parts, from the broadest down. */
export function categoryPath(category) {
  return category ? category.split(" > ") : [];
}

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
