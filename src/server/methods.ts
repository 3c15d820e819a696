import { METHODS } from 'node:http'
import { REFUSED_METHODS } from '../domain/vocabulary.js'

/** The methods that are forwarded: all that Node's parser knows, except `REFUSED_METHODS`. */
export const FORWARDED_METHODS: readonly string[] = METHODS.filter(
  method => !REFUSED_METHODS.includes(method),
)
