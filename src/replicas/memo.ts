/**
 * Values that are made of records, and are made again only when one of those has changed. A record that changes is another
 * object. Nothing is kept whose first record is gone.
 */
export class Memo<Value> {
  readonly #made = new WeakMap<object, { readonly inputs: readonly unknown[]; readonly value: Value }>()

  /** The value made of these inputs, of which the first one is a record. */
  of(inputs: readonly [first: object, ...others: readonly unknown[]], make: () => Value): Value {
    const [first] = inputs
    const known = this.#made.get(first)
    const isSame =
      known !== undefined &&
      known.inputs.length === inputs.length &&
      known.inputs.every((input, index) => input === inputs[index])
    if (isSame) return known.value
    const value = make()
    this.#made.set(first, { inputs, value })
    return value
  }
}
