/**
 * A cache of values that are computed from records, and computed again only when one of the records has changed. A changed
 * record is a new object. A value is dropped when its first record is garbage-collected.
 */
export class Memo<Value> {
  readonly #made = new WeakMap<object, { readonly inputs: readonly unknown[]; readonly value: Value }>()

  /** The value for these inputs; the first one is a record. */
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
