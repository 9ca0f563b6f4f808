// Plays a clip. It never starts by itself, and asks for the audio only when it is played.

import { Heard } from "./heard.js";
import { Waveform } from "./waveform.js";

const START_VOLUME = 0.5;
const VOLUME = "earmark.volume"; // stays from item to item, like the speed
const STEP = 0.1;
const SPEED = "earmark.speed"; // stays from item to item

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export class Player {
  /** @param onmove called with the position in seconds whenever it changes. */
  constructor(root, item, onmove) {
    const find = (selector) => root.querySelector(selector);
    this.audio = find("audio");
    this.position = find(".wave input");
    this.button = find(".play");
    this.speed = find("select");
    this.muteButton = find(".mute");
    this.silence = find(".silence");
    this.time = find("output");
    this.problem = find("[role=alert]");
    this.duration = Number(root.dataset.duration);
    this.onmove = onmove;
    this.waveform = new Waveform(find("canvas"));
    this.waveform.load(`/items/${item}/waveform`);

    this.volume = find(".volume");
    this.volume.value = localStorage.getItem(VOLUME) ?? START_VOLUME;
    this.setVolume();
    this.speed.value = localStorage.getItem(SPEED) ?? "1";
    this.setSpeed();

    this.button.addEventListener("click", () => this.toggle());
    for (const button of root.querySelectorAll("[data-skip]"))
      button.addEventListener("click", () => this.skip(Number(button.dataset.skip)));
    this.position.addEventListener("input", () => this.seek(Number(this.position.value)));
    this.speed.addEventListener("change", () => this.setSpeed());
    this.muteButton.addEventListener("click", () => this.mute());
    this.volume.addEventListener("input", () => this.setVolume());

    this.heard = new Heard(this.audio);
    for (const event of ["timeupdate", "seeked"])
      this.audio.addEventListener(event, () => this.show());
    this.audio.addEventListener("durationchange", () => {
      if (Number.isFinite(this.audio.duration)) this.duration = this.audio.duration;
      this.show();
    });
    for (const event of ["play", "pause", "volumechange"])
      this.audio.addEventListener(event, () => this.showState());
    this.audio.addEventListener("error", () => this.fail());
    this.show();
  }

  toggle() {
    if (!this.audio.paused) return this.audio.pause();
    this.play();
    return this.audio.muted ? "It plays, but it is muted" : undefined;
  }

  play() {
    this.problem.hidden = true;
    if (this.audio.error) this.audio.load();
    this.audio.play().catch(() => {}); // "error" says why
  }

  /** Go to a position in seconds, whether playing or not. */
  seek(seconds) {
    this.audio.currentTime = Math.min(Math.max(0, seconds), this.duration);
    this.show();
  }

  skip(seconds) {
    this.seek(this.audio.currentTime + seconds);
  }

  /** Play from a position in seconds. */
  playFrom(seconds) {
    this.seek(seconds);
    this.play();
  }

  /** @param steps -1 for the next slower speed, 1 for the next faster one. */
  changeSpeed(steps) {
    const last = this.speed.options.length - 1;
    this.speed.selectedIndex = Math.min(Math.max(0, this.speed.selectedIndex + steps), last);
    this.setSpeed();
    return `Speed ${this.speed.value}`;
  }

  setSpeed() {
    // Loading sets the rate back to the default.
    this.audio.defaultPlaybackRate = this.audio.playbackRate = Number(this.speed.value);
    localStorage.setItem(SPEED, this.speed.value);
  }

  /** Play no more, and keep no sound. */
  stop() {
    this.audio.pause();
    this.audio.removeAttribute("src");
    this.audio.load();
  }

  /** @param by how much louder, of 1; less than 0 for less loud. */
  changeVolume(by) {
    this.volume.value = Number(this.volume.value) + by * STEP;
    this.setVolume();
    return `Volume ${Math.round(this.audio.volume * 100)} %`;
  }

  setVolume() {
    this.audio.volume = Number(this.volume.value);
    localStorage.setItem(VOLUME, this.volume.value);
  }

  mute() {
    this.audio.muted = !this.audio.muted;
    return this.audio.muted ? "Muted" : "Not muted";
  }

  show() {
    const now = this.audio.currentTime;
    this.position.max = this.duration;
    this.position.value = now;
    const text = `${clock(now)} of ${clock(this.duration)}`;
    if (this.time.value !== text) {
      this.time.value = text;
      this.position.setAttribute("aria-valuetext", text);
    }
    this.waveform.show(this.duration ? now / this.duration : 0);
    if (now || !this.audio.paused) this.onmove(now);
  }

  showState() {
    const playing = !this.audio.paused;
    this.button.querySelector("span").textContent = playing ? "Pause" : "Play";
    const { muted } = this.audio;
    this.muteButton.setAttribute("aria-pressed", muted);
    this.muteButton.querySelector("span").textContent = muted ? "Muted" : "Mute";
    this.silence.hidden = !(playing && muted);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (playing && !still && !this.moving) this.move();
  }

  /** Let the picture follow frame by frame; "timeupdate" alone comes four times a second. */
  move() {
    this.moving = !this.audio.paused;
    this.show();
    if (this.moving) requestAnimationFrame(() => this.move());
  }

  fail() {
    this.problem.hidden = false;
    this.problem.textContent = this.audio.canPlayType("audio/ogg; codecs=opus")
      ? "The audio could not be loaded. Press Play to try again, or skip the item."
      : "This browser cannot play Opus audio. Use a current Firefox, Chrome, Edge or Safari.";
  }
}
