// What this browser remembers. Where storage is blocked, memory takes over until the page is closed.

class Store {
  #area;
  #memory = new Map();

  constructor(area) {
    this.#area = area;
  }

  read(key) {
    try {
      const text = this.#area().getItem(key);
      return text === null ? null : JSON.parse(text);
    } catch {
      return this.#memory.get(key) ?? null; // blocked by the browser, or not written by us
    }
  }

  write(key, value) {
    this.#memory.set(key, value);
    try {
      this.#area().setItem(key, JSON.stringify(value));
    } catch {
      // Blocked or full: #memory has it.
    }
  }
}

/** Kept between visits. */
export const lasting = new Store(() => window.localStorage);
/** Kept until this tab is closed. */
export const visit = new Store(() => window.sessionStorage);
