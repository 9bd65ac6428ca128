package apiserver

import (
	"fmt"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"knarr.dev/knarr/appliance/apiserver/authn"
)

// publicPaths are answered to everybody: whether the server works, and which it is.
var publicPaths = []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}

// The headers in which a front proxy says on whose behalf it asks.
var (
	userHeaders        = headerrequest.StaticStringSlice{"X-Remote-User"}
	uidHeaders         = headerrequest.StaticStringSlice{"X-Remote-Uid"}
	groupHeaders       = headerrequest.StaticStringSlice{"X-Remote-Group"}
	extraHeaderPrefix  = headerrequest.StaticStringSlice{"X-Remote-Extra-"}
	frontProxyAccepted = headerrequest.StaticStringSlice{} // any certificate of that CA, which signs nothing else
)

// authentication tries a front proxy's word, then the client's certificate, then tokens, then nobody.
func authentication(config *Config, access *access, serving *genericapiserver.SecureServingInfo) (genericapiserver.AuthenticationInfo, error) {
	clientCA, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", config.ClientCA)
	if err != nil {
		return genericapiserver.AuthenticationInfo{}, fmt.Errorf("read the client CA: %w", err)
	}
	frontProxyCA, err := dynamiccertificates.NewDynamicCAContentFromFile("front-proxy-ca", config.FrontProxyCA)
	if err != nil {
		return genericapiserver.AuthenticationInfo{}, fmt.Errorf("read the front proxy CA: %w", err)
	}
	info := genericapiserver.AuthenticationInfo{
		APIAudiences: access.audiences,
		RequestHeaderConfig: &authenticatorfactory.RequestHeaderConfig{
			UsernameHeaders:     userHeaders,
			UIDHeaders:          uidHeaders,
			GroupHeaders:        groupHeaders,
			ExtraHeaderPrefixes: extraHeaderPrefix,
			CAContentProvider:   frontProxyCA,
			AllowedClientNames:  frontProxyAccepted,
		},
	}
	for _, ca := range []dynamiccertificates.CAContentProvider{clientCA, frontProxyCA} {
		if err := info.ApplyClientCert(ca, serving); err != nil {
			return genericapiserver.AuthenticationInfo{}, fmt.Errorf("ask clients for certificates: %w", err)
		}
	}
	known := []authenticator.Request{
		headerrequest.NewDynamicVerifyOptionsSecure(frontProxyCA.VerifyOptions, frontProxyAccepted, userHeaders, uidHeaders, groupHeaders, extraHeaderPrefix),
		authn.NewCertificates(clientCA.VerifyOptions),
	}
	all := tokenunion.New(access.tokens...)
	known = append(known, bearertoken.New(all), websocket.NewProtocolAuthenticator(all))
	// A credential that is wrong is refused even where none would do: its owner should learn of it.
	info.Authenticator = group.NewAuthenticatedGroupAdder(union.New(known...))
	if anybody := anonymously(access.anonymous); anybody.Enabled {
		info.Authenticator = union.NewFailOnError(info.Authenticator, anonymous.NewAuthenticator(anybody.Conditions))
	}
	return info, nil
}

// anonymously is who needs no credentials: nobody beyond public paths, unless the operator's file says otherwise.
func anonymously(config *apiserver.AnonymousAuthConfig) *apiserver.AnonymousAuthConfig {
	if config != nil {
		return config
	}
	public := &apiserver.AnonymousAuthConfig{Enabled: true}
	for _, path := range publicPaths {
		public.Conditions = append(public.Conditions, apiserver.AnonymousAuthCondition{Path: path})
	}
	return public
}
