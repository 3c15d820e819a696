/** The name of this gateway in `Via` (RFC 9110, 7.6.3) and `Proxy-Status` (RFC 9209). */
export const PSEUDONYM = 'focus-breaker'
