// A certified OpenID provider for the live tests: JWT access tokens by client credentials, on loopback.
// node oidc_provider.mjs MODULES ALG   prints its issuer; a line "rotate" on stdin gives it new keys.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [modules, alg] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

const pairs = {
  RS256: ["rsa", { modulusLength: 2048 }],
  PS256: ["rsa", { modulusLength: 2048 }],
  ES256: ["ec", { namedCurve: "P-256" }],
  EdDSA: ["ed25519", {}],
};

function provider(issuer) {
  const [type, options] = pairs[alg];
  const jwk = generateKeyPairSync(type, options).privateKey.export({ format: "jwk" });
  const made = new Provider(issuer, {
    jwks: { keys: [{ ...jwk, kid: randomUUID(), use: "sig", alg }] },
    cookies: { keys: [randomUUID()] },
    clients: [
      {
        client_id: "nightly-report",
        client_secret: "made-up-secret-of-a-test",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: alg,
      },
    ],
    clientAuthMethods: ["client_secret_basic"],
    ttl: { ClientCredentials: () => 300 },
    extraTokenClaims: () => ({ repository_id: 456789, groups: ["finance"] }),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: "read",
          audience: resource.replace("urn:", ""),
          accessTokenFormat: "jwt",
          jwt: { sign: { alg } },
        }),
      },
    },
  });
  return made.callback();
}

let answer;
const server = createServer((request, response) => answer(request, response));
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  answer = provider(issuer);
  console.log(issuer);
  createInterface({ input: process.stdin }).on("line", () => {
    answer = provider(issuer);
    console.log("rotated");
  }).on("close", () => process.exit(0));
});
