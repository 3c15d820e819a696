import { fileURLToPath } from 'node:url'

/** The root of the repository, with a slash at the end. The compiled generator is in `.build/docs/generate/`. */
export const root = fileURLToPath(new URL('../../../', import.meta.url))
