import { METHODS } from 'node:http'

/** Methods that no gateway forwards: a tunnel, and an echo of what may be secret. */
const REFUSED_METHODS: ReadonlySet<string> = new Set(['CONNECT', 'TRACE'])

/** The methods that are forwarded: all that Node's parser knows but those. */
export const FORWARDED_METHODS: readonly string[] = METHODS.filter(method => !REFUSED_METHODS.has(method))
