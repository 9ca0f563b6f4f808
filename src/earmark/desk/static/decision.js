// What is decided about an item, or done instead, sent once and only while the item is ours.

export class Decision {
  /**
   * @param form with the verdicts.
   * @param skip the dialog with the reasons.
   * @param check resolves to whether the item is ours and the desk answers.
   */
  constructor(form, skip, check) {
    this.form = form;
    this.skip = skip;
    this.check = check;
    this.problem = document.getElementById("decide-problem");
    this.busy = false;
    const skipForm = skip.querySelector(".choices");
    this.buttons = [...document.querySelectorAll("[data-acts]")];
    for (const each of new Set(this.buttons.flatMap(({ form }) => form ?? [])))
      each.addEventListener("submit", (event) => this.submit(event));
    skipForm.addEventListener("formdata", ({ formData }) => {
      for (const [name, value] of new FormData(form))
        if (["note", "transcript_wrong", "not_speech", "wrong_language"].includes(name))
          formData.set(name, value);
    });
    form.addEventListener("change", () => {
      if (this.hasCategory) this.problem.hidden = true;
    });
    skip.addEventListener("keydown", (event) => this.choose(event));
  }

  get hasCategory() {
    return this.form.querySelector("[name=categories]:checked") !== null;
  }

  /** Make decisions, and what else acts on the item, possible or not. */
  enable(possible) {
    for (const button of this.buttons) {
      button.disabled = !possible;
      if (!possible) button.closest("dialog")?.close();
    }
  }

  /** Press a verdict's button, as a key does. */
  press(verdict) {
    const button = this.buttons.find(({ value }) => value === verdict);
    if (!button.disabled) this.form.requestSubmit(button);
  }

  /** Turn a box on or off, as a key does. */
  flip(box) {
    if (!box) return undefined;
    box.click();
    return `${box.nextSibling.textContent}: ${box.checked ? "on" : "off"}`;
  }

  category(number) {
    return this.flip(this.form.querySelectorAll("[name=categories]")[number - 1]);
  }

  flag(name) {
    return this.flip(this.form.elements[name]);
  }

  choose(event) {
    const button = this.skip.querySelectorAll("[name=reason]")[Number(event.key) - 1];
    if (!button || button.disabled || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    event.preventDefault();
    button.form.requestSubmit(button);
  }

  async submit(event) {
    if (this.sure) return;
    event.preventDefault();
    const { target, submitter } = event;
    if (this.busy || !submitter) return;
    this.problem.hidden = true;
    if (submitter.value === "reportable" && !this.hasCategory) {
      this.problem.textContent = "Choose at least one category that it falls under.";
      this.problem.hidden = false;
      this.form.querySelector("[name=categories]")?.focus();
      return;
    }
    this.busy = true;
    // A browser's own page about a lost connection would take the note with it.
    if (await this.check()) {
      this.sure = true;
      target.requestSubmit(submitter);
      this.sure = false;
    } else {
      this.busy = false;
    }
  }
}
