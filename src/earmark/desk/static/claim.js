// Keeps an item while its page is open, and says so when it is lost.

const LONGEST = 60000; // between two signs of life, in ms
const RETRY = 5000; // after a failure, in ms
const PATIENCE = 10000; // for an answer, in ms

const TEXTS = {
  lost: "This item is not open for you any more: it was decided, put back, or went to somebody else.",
  "signed out": "You are signed out. Copy your note if there is one, sign in again in another tab, then reload this page.",
  offline: "There is no connection to the review desk. Trying again; your note is still here.",
};

export class Claim {
  /**
   * @param banner says what is wrong.
   * @param onchange called with whether decisions are possible.
   * @param isPlaying returns whether audio plays: who listens is at work.
   */
  constructor(item, leaseSeconds, banner, onchange, isPlaying) {
    this.url = `/items/${item}/heartbeat`;
    this.headers = { "X-CSRF-Token": document.querySelector("meta[name=csrf]").content };
    this.interval = Math.min((leaseSeconds * 1000) / 3, LONGEST);
    this.banner = banner;
    this.onchange = onchange;
    this.isPlaying = isPlaying;
    this.state = "held";
    this.wait();
    // Timers rest in hidden tabs and in sleeping machines.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.state !== "lost") this.check();
    });
  }

  wait() {
    clearTimeout(this.timer);
    if (this.state === "lost") return;
    const pause = this.state === "held" ? this.interval : Math.min(RETRY, this.interval);
    this.timer = setTimeout(() => this.check(), pause);
  }

  /** Give a sign of life; returns whether the item is still ours and the desk answers. */
  async check() {
    clearTimeout(this.timer);
    this.become(await this.ask());
    this.wait();
    return this.state === "held";
  }

  async ask() {
    try {
      const signal = AbortSignal.timeout(PATIENCE);
      const url = this.isPlaying() ? `${this.url}?playing=1` : this.url;
      const answer = await fetch(url, { method: "POST", headers: this.headers, signal });
      if (answer.ok) return "held";
      if (answer.status === 409) return "lost";
      return [401, 403].includes(answer.status) ? "signed out" : "offline";
    } catch {
      return "offline";
    }
  }

  become(state) {
    if (state === this.state) return;
    this.state = state;
    this.banner.hidden = state === "held";
    this.banner.querySelector("p").textContent = TEXTS[state] ?? "";
    this.banner.querySelector("a").hidden = state !== "lost"; // before, the page is worth keeping
    this.onchange(state === "held");
  }
}
